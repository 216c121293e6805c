"""The measured columns as records; axes, titles, orders and the frontier follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

MEAN_OF_VALUES = "mean_value_error_rel_l2"  # the error of the mean of all visible values


def show_ms(value: float) -> str:
    """1.25 -> `1.25 ms`; 1500 -> `1.5 s`; 0.02 -> `20 µs`."""
    for unit, scale in (("s", 1e3), ("ms", 1.0)):
        if value >= scale:
            return f"{_three_digits(value / scale)} {unit}"
    return f"{_three_digits(value * 1e3)} µs"


def show_bytes(value: float) -> str:
    """Bytes in binary units: 1572864 -> `1.5 MiB`."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value >= 2**power:
            return f"{_three_digits(value / 2**power)} {unit}"
    return f"{value:.0f} B"


def show_count(value: float) -> str:
    """A length or a number of heads: 256, 1k for 1024, 16k, 1M for 1048576; 1000 stays 1000."""
    for unit, power in (("M", 20), ("k", 10)):
        if value >= 2**power and value % 2 ** (power - 1) == 0:
            return f"{value / 2**power:g}{unit}"
    return f"{value:.0f}"


def show_error(value: float) -> str:
    """A relative error: 0.213; 2e-07."""
    return f"{value:.2g}" if value < 1e-3 else _three_digits(value)


def show_ratio(value: float) -> str:
    """A ratio: 12.3×."""
    return f"{_three_digits(value)}×"


def show_percent(value: float) -> str:
    """A fraction: 0.123 -> `12.3 %`."""
    return f"{_three_digits(100 * value)} %"


def show_number(value: float) -> str:
    """A plain number: 1.50; 12.3; 4096."""
    return _three_digits(value)


def _three_digits(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column that can be ranked or drawn.

    `label` is the text of an axis, `short` the heading of a column. `low` and `high` are the
    columns of the interval, and `exact` is the column of the fastest exact implementation. `floor`
    is the column of the best possible value, and `trivial` the column of the value of a method
    that ignores the query. A logarithmic axis is linear below `linear_below`, so that it can show
    zero. Numbers above `ceiling` are drawn at the ceiling. A point with at least `useless` is on
    no frontier.
    """

    column: str
    label: str
    short: str
    unit: str
    better: Literal["lower", "higher"]
    log: bool
    show: Callable[[float], str]
    low: str | None = None
    high: str | None = None
    exact: str | None = None
    floor: str | None = None
    trivial: str | None = None
    linear_below: float | None = None
    ceiling: float | None = None
    useless: float | None = None


TIME = Metric(
    column="time_ms_median",
    label="time per call",
    short="time",
    unit="ms",
    better="lower",
    log=True,
    show=show_ms,
    low="time_ms_q1",
    high="time_ms_q3",
    exact="exact_ms_median",
)
MEMORY = Metric(
    column="peak_memory_bytes",
    label="peak memory beyond the inputs",
    short="memory",
    unit="bytes",
    better="lower",
    log=True,
    show=show_bytes,
    exact="exact_peak_memory_bytes",
)
TOKEN_TIME = replace(TIME, label="time per token", short="time per token")
STATE = Metric(
    column="state_bytes",
    label="bytes held between two steps",
    short="state",
    unit="bytes",
    better="lower",
    log=True,
    show=show_bytes,
)
ERROR = Metric(
    column="approx_error_rel_l2",
    label="relative L2 error of the output",
    short="error",
    unit="",
    better="lower",
    log=True,
    show=show_error,
    low="approx_error_low",
    high="approx_error_high",
    floor="dtype_floor_rel_l2",
    trivial=MEAN_OF_VALUES,
    linear_below=0.01,
    useless=1.0,  # the error of an output of zeros
    ceiling=10.0,  # methods that do not approximate softmax can have errors of thousands
)
SPEEDUP = Metric(
    column="speedup_vs_exact",
    label="times as fast as exact attention",
    short="speedup",
    unit="",
    better="higher",
    log=True,
    show=show_ratio,
)
MASS_RECALL = Metric(
    column="mass_recall",
    label="exact attention mass on the keys that are seen",
    short="mass recall",
    unit="",
    better="higher",
    log=False,
    show=show_percent,
)
EFFECTIVE_KEYS = Metric(
    column="effective_keys",
    label="effective keys of the head",
    short="effective keys",
    unit="",
    better="lower",
    log=True,
    show=show_number,
)
ROOFLINE = Metric(
    column="roofline_fraction",
    label="part of the measured limit",
    short="roofline",
    unit="",
    better="higher",
    log=False,
    show=show_percent,
)

# The columns of tables, in order: of an answer, of an answer on decoding, and of all cases.
SUMMARY = (TIME, SPEEDUP, MEMORY, ERROR)
DECODING = (TOKEN_TIME, SPEEDUP, STATE, ERROR)
TABLE = (TIME, SPEEDUP, MEMORY, STATE, ERROR, MASS_RECALL, ROOFLINE)
