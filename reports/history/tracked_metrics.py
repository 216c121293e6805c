"""The metrics of the history: where a stored file has them, and which differences are steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reports.history.stored_files import TrackedCase
from reports.metrics import show_bytes, show_error, show_ms, show_ratio


def show_flops(value: float) -> str:
    """Operations in decimal units: 1073741824 -> `1.07 GFLOP`."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}FLOP"
    return f"{value:.0f} FLOP"


@dataclass(frozen=True)
class TrackedMetric:
    """A number of a tracked case.

    `name` is that of docs/columns.md, `label` the title of its axis, `show` the name of the
    function that writes it. `tolerance` is the relative difference above which two numbers without
    noise differ, and None for numbers with noise.
    """

    name: str
    label: str
    short: str
    unit: str
    better: Literal["lower", "higher"]
    show: Callable[[float], str]
    tolerance: float | None

    @property
    def has_noise(self) -> bool:
        """Whether runs of the same code differ, so that steps must be searched for."""
        return self.tolerance is None

    def shown_pair(self, before: float, after: float) -> tuple[str, str]:
        """Two numbers in words, with all digits of counts that would look the same."""
        first, second = self.show(before), self.show(after)
        if first == second and self.tolerance == 0:
            return f"{before:,.0f} {self.unit}", f"{after:,.0f} {self.unit}"
        return first, second


TRACKED_TIME = TrackedMetric(
    "time_ms_median", "time per call", "time", "ms", "lower", show_ms, None
)
METRICS = (
    TRACKED_TIME,
    TrackedMetric(
        *("speedup_vs_exact", "times as fast as exact attention", "speedup", "", "higher"),
        *(show_ratio, None),
    ),
    TrackedMetric(
        *("peak_memory_bytes", "peak memory beyond the inputs", "memory", "bytes", "lower"),
        *(show_bytes, 0.0),
    ),
    TrackedMetric(
        *("saved_for_backward_bytes", "bytes saved for the backward pass", "saved for backward"),
        *("bytes", "lower", show_bytes, 0.0),
    ),
    # The tolerances of errors are those of `make counts`.
    TrackedMetric(
        *("approx_error_rel_l2", "relative L2 error against exact attention", "error"),
        *("", "lower", show_error, 0.001),
    ),
    TrackedMetric(
        *("impl_error_rel_l2", "relative L2 error of rounding", "rounding error"),
        *("", "lower", show_error, 0.5),
    ),
    TrackedMetric(
        *("useful_flops", "operations that the method cannot avoid", "useful operations", "FLOP"),
        *("lower", show_flops, 0.0),
    ),
)
BY_NAME: Mapping[str, TrackedMetric] = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class Reading:
    """A number of one run, and its quartiles over the rounds of the run; equal to the number for
    a metric that is counted once."""

    value: float
    low: float
    high: float


def reading(metric: TrackedMetric, benchmark: TrackedCase) -> Reading | None:
    """The metric of a stored case; None if the case does not have it."""
    if metric is TRACKED_TIME:
        low, middle, high = np.percentile(benchmark.stats.data, [25, 50, 75]) * 1e3
        return Reading(float(middle), float(low), float(high))
    value = benchmark.extra_info.get(metric.name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return Reading(float(value), float(value), float(value))
