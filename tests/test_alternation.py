"""The order of the turns of a round: a drift and warm caches give no bias."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from bench.time_gate import alternation
from bench.time_gate.verdict import RoundRatios

NAMES = ("base", "head", "control")
Milliseconds = Callable[[list[str]], float]  # of a call; takes the sides of all turns until now
FIRSTS = (0, 1, 2)


class TimedSide:
    """A side whose time depends on the turns before."""

    def __init__(self, name: str, turns: list[str], milliseconds: Milliseconds) -> None:
        self._name = name
        self._turns = turns
        self._milliseconds = milliseconds

    def ask(self, request: str, timeout: float, *, calls: int) -> dict[str, Any]:
        assert request == "time"
        self._turns.append(self._name)
        return {"ns": self._milliseconds(self._turns) * 1e6 * calls}


def measured(first: int, milliseconds: Milliseconds) -> tuple[RoundRatios, list[str]]:
    """The ratios of a round, and the sides in the order of their turns."""
    turns: list[str] = []
    sides: Any = tuple(TimedSide(name, turns, milliseconds) for name in NAMES)
    return alternation.one_round(sides, 1, 1.0, first=first), turns


@pytest.mark.parametrize("first", FIRSTS)
def test_no_side_has_two_turns_in_a_row(first: int) -> None:
    _, turns = measured(first, lambda _: 1.0)
    assert len(turns) == 9 * alternation.SQUARES[1]
    assert turns[0] == NAMES[first]
    assert all(one != following for one, following in pairwise(turns))


@pytest.mark.parametrize("first", FIRSTS)
def test_all_sides_have_the_same_mean_position_in_each_square(first: int) -> None:
    _, turns = measured(first, lambda _: 1.0)
    for start in range(0, len(turns), 9):
        positions: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(turns[start : start + 9]):
            positions[name].append(number)
        assert {name: (len(own), sum(own)) for name, own in positions.items()} == dict.fromkeys(
            NAMES, (3, 12)
        )


@pytest.mark.parametrize("first", FIRSTS)
def test_a_linear_drift_cancels_exactly(first: int) -> None:
    found, _ = measured(first, lambda turns: math.exp(0.01 * len(turns)))
    assert found.ratios == pytest.approx([0.0], abs=1e-12)
    assert found.controls == pytest.approx([0.0], abs=1e-12)


@pytest.mark.parametrize("first", FIRSTS)
def test_warm_caches_of_a_side_that_had_the_last_turn_give_no_bias(first: int) -> None:
    found, _ = measured(first, lambda turns: 0.9 if turns[-2:-1] == turns[-1:] else 1.0)
    assert found == RoundRatios((0.0,), (0.0,))


@pytest.mark.parametrize("first", FIRSTS)
def test_the_ratio_is_that_of_head_to_base(first: int) -> None:
    found, _ = measured(first, lambda turns: 1.1 if turns[-1] == "head" else 1.0)
    assert found.ratios == pytest.approx([math.log(1.1)])
    assert found.controls == pytest.approx([0.0])


def test_one_interrupted_turn_does_not_move_the_ratio() -> None:
    found, _ = measured(0, lambda turns: 50.0 if len(turns) == 11 else 1.0)
    assert found == RoundRatios((0.0,), (0.0,))


def test_a_case_that_is_slow_has_fewer_squares() -> None:
    _, turns = measured(0, lambda _: 1000.0)
    assert len(turns) == 9 * alternation.SQUARES[0]


@pytest.mark.parametrize(("milliseconds", "calls"), [(0.1, 10), (5.0, 1), (0.3, 4)])
def test_a_turn_takes_about_a_millisecond(milliseconds: float, calls: int) -> None:
    side: Any = TimedSide("base", [], lambda _: milliseconds)
    assert alternation.calls_of_a_turn(side, 1.0) == calls
