"""The numbers of one method in one layer at one length: measured, or computed from two others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

STEEP = 10  # errors that differ by a larger factor are not interpolated
FLAT = 0.3  # the part of the widening of errors that does not grow with their difference


@dataclass(frozen=True, slots=True)
class Estimate:
    """Times are in ms; errors are relative L2 errors; the ends are those of the intervals.

    `noise_low` and `noise_high` are the ends of the time's interval without the uncertainty of an
    interpolation, which is much the same for all methods at one place. `baseline` is the smallest
    error of a baseline of the same budget, and `baseline_name` its name. `floor` is the error of
    the dtype. A number that was not measured is NaN. `rows` are the numbers of the rows in the
    frame that are the evidence.
    """

    time: float
    time_low: float
    time_high: float
    noise_low: float
    noise_high: float
    error: float
    error_low: float
    error_high: float
    floor: float
    memory: float
    baseline: float
    baseline_name: str
    exact_ms: float
    sdpa_ms: float
    gradient_error: float
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Widening:
    """The factors by which both ends of interpolated intervals are moved, as logarithms.

    That of an error is relative to the `rise` between the neighbours. One is infinite if it is not
    known how far the interpolation misses.
    """

    time: float
    error: float


def pooled(seeds: Sequence[Estimate]) -> Estimate:
    """The estimates of several seeds as one: medians, and the widest interval of the error."""
    if len(seeds) == 1:
        return seeds[0]
    least = min(seeds, key=lambda one: one.baseline)
    return Estimate(
        time=_median(one.time for one in seeds),
        time_low=_median(one.time_low for one in seeds),
        time_high=_median(one.time_high for one in seeds),
        noise_low=_median(one.noise_low for one in seeds),
        noise_high=_median(one.noise_high for one in seeds),
        error=_median(one.error for one in seeds),
        error_low=min(one.error_low for one in seeds),
        error_high=max(one.error_high for one in seeds),
        floor=_median(one.floor for one in seeds),
        memory=max(one.memory for one in seeds),
        baseline=least.baseline,
        baseline_name=least.baseline_name,
        exact_ms=_median(one.exact_ms for one in seeds),
        sdpa_ms=_median(one.sdpa_ms for one in seeds),
        gradient_error=max(one.gradient_error for one in seeds),
        rows=tuple(row for one in seeds for row in one.rows),
    )


def between(
    first: Estimate, second: Estimate, weight: float, widening: Widening, *, union: bool = False
) -> Estimate:
    """The estimate at `weight` of the way from the first to the second on logarithmic axes.

    The interval of the error is the union of both intervals, widened, if `union`; and without
    widening if the errors differ by more than a factor of `STEEP`: the method begins to err
    somewhere between.
    """

    def line(name: str) -> float:
        return geometric(getattr(first, name), getattr(second, name), weight)

    both = (first, second)
    time_low, time_high = _interval(both, "time", line, widening.time)
    steep = is_steep(first.error, second.error)
    if union or steep:
        known = math.isfinite(widening.error) and not steep
        factor = math.exp(widening.error) if known else 1.0
        error_low = min(one.error_low for one in both) / factor
        error_high = max(one.error_high for one in both) * factor
    else:
        wider = widening.error * rise(first.error, second.error)
        error_low, error_high = _interval(both, "error", line, wider)
    # Exact attention can have a smaller error than torch SDPA, which has the error `floor`.
    floor = min(*(one.floor for one in both), *(one.error_low for one in both))
    least = min(both, key=lambda one: one.baseline)
    return Estimate(
        time=line("time"),
        time_low=time_low,
        time_high=time_high,
        noise_low=line("noise_low"),
        noise_high=line("noise_high"),
        error=max(first.error, second.error) if steep else line("error"),
        error_low=max(error_low, floor),
        error_high=max(error_high, floor),
        floor=line("floor"),
        memory=line("memory"),
        baseline=line("baseline"),
        baseline_name=least.baseline_name,
        exact_ms=line("exact_ms"),
        sdpa_ms=line("sdpa_ms"),
        gradient_error=max(one.gradient_error for one in both),
        rows=(*first.rows, *second.rows),
    )


def geometric(first: float, second: float, weight: float) -> float:
    """Linear interpolation on a logarithmic axis; NaN unless both numbers are positive."""
    if first == second:
        return first
    if not (first > 0 and second > 0):
        return math.nan
    return math.exp((1 - weight) * math.log(first) + weight * math.log(second))


def rise(first: float, second: float) -> float:
    """The scale of the miss between two errors: curves that rise faster are missed by more."""
    return FLAT + abs(math.log(second / first)) if first > 0 and second > 0 else FLAT


def is_steep(first: float, second: float) -> bool:
    """Whether two errors differ too much for an interpolation."""
    return not max(first, second) <= STEEP * min(first, second)


def _interval(
    both: tuple[Estimate, Estimate], name: str, line: Callable[[str], float], widening: float
) -> tuple[float, float]:
    """The interpolated ends, widened; both intervals together if the widening is not known.

    The uncertainty of the measured values and that of the interpolation are independent, so their
    squares add up.
    """
    if math.isfinite(widening):
        value, low, high = (line(f"{name}{end}") for end in ("", "_low", "_high"))
        if value > 0 and low > 0:
            down, up = (math.hypot(math.log(end / value), widening) for end in (low, high))
            return value / math.exp(down), value * math.exp(up)
        return low, high * math.exp(widening)
    lows = [getattr(one, f"{name}_low") for one in both]
    highs = [getattr(one, f"{name}_high") for one in both]
    return min(lows), max(highs)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
