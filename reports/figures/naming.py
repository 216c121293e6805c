"""Free places for names beside points of a figure. All lengths are in points (1/72 inch)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

LINE = 9.0  # the height of a name
MARKER = 4.0  # half the size of a point
FAR = 14.0  # from here on a name needs a line to its point
STEPS = 12  # spots of that line that are checked

Spot = Sequence[float]  # across, up
Box = tuple[float, float, float, float]  # left, low, right, high


@dataclass(frozen=True)
class LabelPlace:
    """The start of a name, relative to its point."""

    point: int
    across: float
    up: float

    @property
    def is_far(self) -> bool:
        """Whether the name needs a line to its point."""
        return abs(self.up + LINE / 2) > FAR


class Room:
    """The free area around points; names must not cover points, names or the spots `others`."""

    def __init__(self, spots: Mapping[int, Spot], within: Box, others: Sequence[Spot] = ()) -> None:
        self._spots, self._within = spots, within
        self._taken = [_around(spot) for spot in (*spots.values(), *others)]

    def take(
        self, points: Sequence[int], width: float, *, across_others: bool = False
    ) -> LabelPlace | None:
        """The nearest free place for a name beside one of the points; None without any.

        The line to the name may cross other names and points only with `across_others`.
        """
        for across, up in _offsets(width):
            for point in points:
                place = LabelPlace(point, across, up)
                box = self._box(place, width)
                if self._is_free(box) and (across_others or self._is_clear(place, box)):
                    self._taken.append(box)
                    return place
        return None

    def _box(self, place: LabelPlace, width: float) -> Box:
        across, up = self._spots[place.point]
        left, low = across + place.across, up + place.up
        return left, low, left + width, low + LINE

    def _is_free(self, box: Box) -> bool:
        left, low, right, high = self._within
        inside = left <= box[0] and low <= box[1] and box[2] <= right and box[3] <= high
        return inside and not any(_overlap(box, other) for other in self._taken)

    def _is_clear(self, place: LabelPlace, box: Box) -> bool:
        """Whether nothing else lies between a point and its name."""
        if not place.is_far:
            return True
        across, up = self._spots[place.point]
        to_across, to_up = (box[0] + box[2]) / 2 - across, (box[1] + box[3]) / 2 - up
        own = [other for other in self._taken if _holds(other, (across, up))]
        others = [other for other in self._taken if other not in own]
        line = [(across + to_across * k / STEPS, up + to_up * k / STEPS) for k in range(STEPS)]
        return not any(_holds(other, spot) for spot in line for other in others)


def between(start: Spot, end: Spot) -> Iterator[Spot]:
    """Spots on the way from `start` to `end`, so dense that no name fits between them."""
    across, up = end[0] - start[0], end[1] - start[1]
    steps = math.ceil(math.hypot(across, up) / (2 * MARKER))
    for k in range(1, steps):
        yield start[0] + across * k / steps, start[1] + up * k / steps


def _offsets(width: float) -> Iterator[tuple[float, float]]:
    """Offsets of a name: beside its point, below and above it, then farther away."""
    for up in (-9, 0, -4, -15, 6, -22, 13, -30, 21, -38, 29, -46, 37):
        yield -7 - width, up
        yield 7, up
        if abs(up + LINE / 2) > FAR:
            yield -width / 2, up
            yield -0.8 * width, up


def _around(spot: Spot) -> Box:
    across, up = spot
    return across - MARKER, up - MARKER, across + MARKER, up + MARKER


def _holds(box: Box, spot: Spot) -> bool:
    return box[0] <= spot[0] <= box[2] and box[1] <= spot[1] <= box[3]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
