"""The metrics of the history: where a stored file has them, and which differences are steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.schema import error_tolerances
from bench.schema.tracking_file import TrackedCase
from reports.metrics import show_bytes, show_error, show_ms, show_ratio


def show_flops(value: float) -> str:
    """Operations in decimal units: 1073741824 -> `1.07 GFLOP`."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}FLOP"
    return f"{value:.0f} FLOP"


@dataclass(frozen=True)
class TrackedNumber:
    """A number of one run, and its quartiles over the rounds of the run; equal to the number for
    a metric that is counted once. `rounding` is the part of an error that is rounding."""

    value: float
    low: float
    high: float
    rounding: float = 0.0


Agreement = Callable[[TrackedNumber, TrackedNumber], bool]


def counts_agree(before: TrackedNumber, now: TrackedNumber) -> bool:
    """Whether two counts are equal."""
    return before.value == now.value


def method_errors_agree(before: TrackedNumber, now: TrackedNumber) -> bool:
    """Whether two errors of a method are equal up to rounding, as for `bench counts`."""
    rounding = min(before.rounding, now.rounding)
    return error_tolerances.errors_agree(before.value, now.value, rounding)


def rounding_errors_agree(before: TrackedNumber, now: TrackedNumber) -> bool:
    """Whether two errors of rounding are those of the same code on different CPUs."""
    smaller, larger = sorted((before.value, now.value))
    return larger - smaller <= error_tolerances.ROUNDING * smaller


@dataclass(frozen=True, kw_only=True)
class TrackedMetric:
    """A number of a tracked case.

    `name` is that of docs/columns.md, `label` the title of its axis, `show` the name of the
    function that writes it. `agree` says whether two numbers without noise are equal, and is
    None for numbers with noise.
    """

    name: str
    label: str
    short: str
    unit: str
    better: Literal["lower", "higher"]
    show: Callable[[float], str]
    agree: Agreement | None

    @property
    def has_noise(self) -> bool:
        """Whether runs of the same code differ, so that steps must be searched for."""
        return self.agree is None

    @property
    def is_count(self) -> bool:
        """Whether each difference is a step."""
        return self.agree is counts_agree

    def shown_pair(self, before: float, after: float) -> tuple[str, str]:
        """Two numbers in words, with all digits of counts that would look the same."""
        first, second = self.show(before), self.show(after)
        if first == second and self.is_count:
            return f"{before:,.0f} {self.unit}", f"{after:,.0f} {self.unit}"
        return first, second


TRACKED_TIME = TrackedMetric(
    name="time_ms_median",
    label="time per call",
    short="time",
    unit="ms",
    better="lower",
    show=show_ms,
    agree=None,
)
METRICS = (
    TRACKED_TIME,
    TrackedMetric(
        name="speedup_vs_exact",
        label="speedup over exact attention",
        short="speedup",
        unit="",
        better="higher",
        show=show_ratio,
        agree=None,
    ),
    TrackedMetric(
        name="peak_memory_bytes",
        label="peak memory beyond the inputs",
        short="memory",
        unit="bytes",
        better="lower",
        show=show_bytes,
        agree=counts_agree,
    ),
    TrackedMetric(
        name="saved_for_backward_bytes",
        label="bytes saved for the backward pass",
        short="saved for backward",
        unit="bytes",
        better="lower",
        show=show_bytes,
        agree=counts_agree,
    ),
    TrackedMetric(
        name="approx_error_rel_l2",
        label="relative L2 error against exact attention",
        short="error",
        unit="",
        better="lower",
        show=show_error,
        agree=method_errors_agree,
    ),
    TrackedMetric(
        name="impl_error_rel_l2",
        label="relative L2 error of rounding",
        short="rounding error",
        unit="",
        better="lower",
        show=show_error,
        agree=rounding_errors_agree,
    ),
    TrackedMetric(
        name="useful_flops",
        label="operations that the method cannot avoid",
        short="useful operations",
        unit="FLOP",
        better="lower",
        show=show_flops,
        agree=counts_agree,
    ),
)


def reading(metric: TrackedMetric, benchmark: TrackedCase) -> TrackedNumber | None:
    """The metric of a stored case; None if the case does not have it."""
    if metric is TRACKED_TIME:
        low, middle, high = np.percentile(benchmark.stats.data, [25, 50, 75]) * 1e3
        return TrackedNumber(float(middle), float(low), float(high))
    value = _number(benchmark, metric.name)
    if value is None:
        return None
    is_error = metric.agree is method_errors_agree
    rounding = _number(benchmark, "impl_error_rel_l2") if is_error else None
    return TrackedNumber(value, value, value, rounding or 0.0)


def _number(benchmark: TrackedCase, name: str) -> float | None:
    value = benchmark.extra_info.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
