"""How far interpolation misses on a machine: measured points that are left out and interpolated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reports.recommender.method_estimate import Estimate, Widening, between, is_steep, rise

COVERAGE = 0.95
ENOUGH = 20  # points; fewer have no 95 % quantile
ALIKE = 1.25  # spacings that differ by a smaller factor count as equal
LONGEST_STEP = 2  # a point is interpolated from its neighbours, and from those two steps away
LARGEST_SPACING = 16
NOTHING = Widening(0.0, 0.0)


@dataclass(frozen=True)
class Miss:
    """A measured point that was interpolated from two others, whose places differ by `spacing`.

    `time` is the logarithm of the factor by which the measured time is outside the interpolated
    interval, 0 if it is inside; `error` is the same, divided by the `rise` between the neighbours.
    """

    spacing: float
    time: float
    error: float


class Misses:
    """The misses of one machine, direction and axis."""

    def __init__(self, curves: Iterable[Mapping[int, Estimate]]) -> None:
        found = [miss for curve in curves for miss in _of_curve(curve)]
        self._misses = sorted(found, key=lambda miss: miss.spacing)
        self._known: dict[float, Widening] = {}

    def widening(self, spacing: float) -> Widening:
        """The 95 % quantiles of the misses at a spacing; infinite if nothing is known."""
        if spacing not in self._known:
            quantiles = (self._quantile(name, spacing) for name in ("time", "error"))
            self._known[spacing] = Widening(*quantiles)
        return self._known[spacing]

    def _quantile(self, name: str, spacing: float) -> float:
        """From about this spacing, and wider ones until there are enough; else from the widest."""
        found = [
            (miss.spacing, value)
            for miss in self._misses
            if math.isfinite(value := getattr(miss, name))
        ]
        if not found:
            return math.inf
        wider = [(place, value) for place, value in found if place >= spacing / ALIKE]
        if wider:
            last = wider[min(ENOUGH, len(wider)) - 1][0] * ALIKE
            return quantile([value for place, value in wider if place <= last])
        # The miss of a linear interpolation grows with the square of the spacing.
        widest = found[-1][0]
        values = [value for place, value in found if place >= widest / ALIKE]
        return quantile(values) * (math.log(spacing) / math.log(widest)) ** 2


def weight_of(place: float, first: float, second: float) -> float:
    """The part of the way from the first place to the second, on a logarithmic axis."""
    return math.log(place / first) / math.log(second / first)


def outside(value: float, low: float, high: float) -> float:
    """The logarithm of the factor by which a value is outside an interval; NaN if not known."""
    if not (value > 0 and low > 0 and high > 0):
        return math.nan
    return max(math.log(low / value), math.log(value / high), 0.0)


def quantile(values: Sequence[float]) -> float:
    """The smallest value that at least 95 % of `len(values) + 1` values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered), math.ceil(COVERAGE * (len(ordered) + 1))) - 1]


def _of_curve(curve: Mapping[int, Estimate]) -> Iterable[Miss]:
    places = sorted(curve)
    for number, place in enumerate(places):
        for step in range(1, LONGEST_STEP + 1):
            if number < step or number + step >= len(places):
                continue
            ends = places[number - step], places[number + step]
            if ends[1] / ends[0] > LARGEST_SPACING:
                continue
            yield _miss(curve[place], curve[ends[0]], curve[ends[1]], weight_of(place, *ends), ends)


def _miss(
    own: Estimate, first: Estimate, second: Estimate, weight: float, ends: tuple[int, int]
) -> Miss:
    guess = between(first, second, weight, NOTHING)
    time = outside(own.time, guess.time_low, guess.time_high)
    error = math.nan
    if not is_steep(first.error, second.error):
        found = outside(own.error, guess.error_low, guess.error_high)
        error = found / rise(first.error, second.error)
    return Miss(ends[1] / ends[0], time, error)
