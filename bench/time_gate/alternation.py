"""Alternates the calls of a case between three processes: base, head, and base a second time.

Nine turns are a Latin square: base, head, control; head, control, base; control, base, head. A
drift of the machine that is linear over the square cancels out. No process has two turns in a row,
because its second turn would find its data in the caches of the core, and be faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from bench.time_gate.side import Side
from bench.time_gate.verdict import RoundRatios

TURN = 1e6  # nanoseconds that the calls of one turn should take
SECONDS = 0.3  # of all turns of a case in one round
SQUARES = (2, 7)  # fewest and most of one round

Sides = tuple[Side, Side, Side]  # base, head, control


def calls_of_a_turn(side: Side, timeout: float) -> int:
    """The number of calls that take about `TURN`."""
    spent = min(_time(side, 1, timeout) for _ in range(3))
    return max(1, math.ceil(TURN / spent))


def one_round(sides: Sides, calls: int, timeout: float, *, first: int) -> RoundRatios:
    """The ratios of one round.

    Args:
        sides: base, head and control, with a case prepared.
        calls: number of calls in a turn.
        timeout: seconds for one turn.
        first: number of the side that has the first turn.
    """
    rows: list[list[float]] = []
    spent, (fewest, most) = 0.0, SQUARES
    while len(rows) < fewest or (len(rows) < most and spent < SECONDS):
        times: list[list[float]] = [[], [], []]
        for turn in range(9):
            side = (first + turn + turn // 3) % 3
            times[side].append(_time(sides[side], calls, timeout))
        rows.append([fmean(map(math.log, own)) for own in times])
        spent += sum(map(sum, times)) * calls / 1e9
    of_sides = np.array(rows)
    return RoundRatios(
        ratios=(middle_mean(of_sides[:, 1] - of_sides[:, 0]),),
        controls=(middle_mean(of_sides[:, 2] - of_sides[:, 0]),),
    )


def _time(side: Side, calls: int, timeout: float) -> float:
    """Nanoseconds of a call."""
    spent: float = side.ask("time", timeout, calls=calls)["ns"] / calls
    return spent


def middle_mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean without the lowest and the highest quarter, which have the interrupted turns."""
    ordered = np.sort(values)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())
