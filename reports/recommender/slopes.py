"""Extrapolation of times along a straight line on logarithmic axes, with an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from reports.recommender.method_estimate import Estimate
from reports.recommender.misses import outside

LAST = 3  # points of a curve whose slopes are the interval


@dataclass(frozen=True)
class Slopes:
    """The exponents of time and memory in a length or a head count, and the interval of time's."""

    time: float
    time_low: float
    time_high: float
    memory: float


# Without two lengths: every method here takes between linear and quadratic time. Exact attention
# takes quadratic time, and a decoding step linear time.
QUADRATIC = Slopes(2, 1, 2, 1)
LINEAR = Slopes(1, 0, 1, 1)
# A GPU that is not full computes more heads in the same time.
PROPORTIONAL = Slopes(1, 0, 1, 1)


def slopes_of(curve: Mapping[int, Estimate], *, at_end: bool) -> Slopes | None:
    """The slopes of the last or first points of a curve; None for a curve of one point."""
    places = sorted(curve, reverse=at_end)[:LAST]
    if len(places) < 2:
        return None
    slopes = [_between(curve, *sorted(pair)) for pair in combinations(places, 2)]
    return _spanning(slopes, slopes[0].time, slopes[0].memory)


def pooled_slopes(curves: Iterable[Mapping[int, Estimate]], *, at_end: bool) -> Slopes | None:
    """The slopes of several curves as one: their median, and an interval that contains all."""
    found = [one for curve in curves if (one := slopes_of(curve, at_end=at_end))]
    if not found:
        return None
    time, memory = (
        statistics.median(getattr(one, name) for one in found) for name in ("time", "memory")
    )
    return _spanning(found, time, memory)


def miss_of(curve: Mapping[int, Estimate], *, at_end: bool) -> float:
    """How far the last (or first) point is outside its extrapolation from the others.

    The unit is the exponent of the factor to the nearest other point, as in `Slopes`. NaN if the
    curve has fewer than three points, or no times.
    """
    place, *others = sorted(curve, reverse=at_end)
    slopes = slopes_of({other: curve[other] for other in others}, at_end=at_end)
    if slopes is None:
        return math.nan
    guess = extrapolated(curve[others[0]], place / others[0], slopes)
    miss = outside(curve[place].time, guess.time_low, guess.time_high)
    return miss / abs(math.log(place / others[0]))


def widened(slopes: Slopes, exponent: float) -> Slopes:
    """The slopes with a wider interval of time's."""
    low, high = slopes.time_low - exponent, slopes.time_high + exponent
    return replace(slopes, time_low=low, time_high=high)


def extrapolated(nearest: Estimate, factor: float, slopes: Slopes) -> Estimate:
    """The estimate at a place that is `factor` times that of the nearest one; errors are kept."""
    ends = [factor**slope for slope in (slopes.time_low, slopes.time_high)]
    time = factor**slopes.time
    return replace(
        nearest,
        time=nearest.time * time,
        time_low=nearest.time_low * min(ends),
        time_high=nearest.time_high * max(ends),
        noise_low=nearest.noise_low * time,
        noise_high=nearest.noise_high * time,
        memory=nearest.memory * factor**slopes.memory,
        exact_ms=math.nan,
        sdpa_ms=math.nan,
    )


def _between(curve: Mapping[int, Estimate], first: int, second: int) -> Slopes:
    a, b = curve[first], curve[second]
    step = math.log(second / first)
    return Slopes(
        _log_ratio(b.time, a.time) / step,
        _log_ratio(b.time_low, a.time_high) / step,
        _log_ratio(b.time_high, a.time_low) / step,
        _log_ratio(b.memory, a.memory) / step,
    )


def _log_ratio(value: float, other: float) -> float:
    return math.log(value / other) if value > 0 and other > 0 else math.nan


def _spanning(slopes: Sequence[Slopes], time: float, memory: float) -> Slopes:
    """These slopes, with an interval of time's that contains all of `slopes`."""
    return Slopes(
        time=time,
        time_low=min(one.time_low for one in slopes),
        time_high=max(one.time_high for one in slopes),
        memory=memory,
    )
