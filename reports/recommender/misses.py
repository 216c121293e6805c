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

    `time` is the widening with which the interpolated interval just contains the measured time, and
    0 if it does; `error` is the same, divided by the `rise` between the neighbours.
    """

    spacing: float
    time: float
    error: float


class Misses:
    """The misses of one machine, direction and axis.

    With `union`, the interpolated interval of an error is that of both neighbours together.
    """

    def __init__(self, curves: Iterable[Mapping[int, Estimate]], *, union: bool = False) -> None:
        found = [miss for curve in curves for miss in _of_curve(curve, union=union)]
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


def quantile(values: Sequence[float], share: float = COVERAGE) -> float:
    """The smallest value that at least this share of `len(values) + 1` values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered), math.ceil(share * (len(ordered) + 1))) - 1]


def _of_curve(curve: Mapping[int, Estimate], *, union: bool) -> Iterable[Miss]:
    places = sorted(curve)
    for number, place in enumerate(places):
        for step in range(1, LONGEST_STEP + 1):
            if number < step or number + step >= len(places):
                continue
            ends = places[number - step], places[number + step]
            if ends[1] / ends[0] > LARGEST_SPACING:
                continue
            both = curve[ends[0]], curve[ends[1]]
            guess = between(*both, weight_of(place, *ends), NOTHING, union=union)
            error = math.nan
            if union:
                error = outside(curve[place].error, guess.error_low, guess.error_high)
            elif not is_steep(both[0].error, both[1].error):
                error = _beyond(curve[place], guess, "error") / rise(both[0].error, both[1].error)
            yield Miss(ends[1] / ends[0], _beyond(curve[place], guess, "time"), error)


def _beyond(own: Estimate, guess: Estimate, name: str) -> float:
    """The widening with which the interval of a guess just contains the value; NaN if not known.

    It is the logarithm of value / guess without the part that the interval explains: the squares of
    both add up.
    """
    value, middle = getattr(own, name), getattr(guess, name)
    low, high = getattr(guess, f"{name}_low"), getattr(guess, f"{name}_high")
    if not (value > 0 and middle > 0 and low > 0 and high > 0):
        return math.nan
    miss = math.log(value / middle)
    explained = math.log((high if miss > 0 else low) / middle)
    return math.sqrt(max(miss**2 - explained**2, 0.0))
