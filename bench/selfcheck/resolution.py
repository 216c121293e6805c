"""The statistics of a selfcheck: from measurements of the same code to a resolution."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

__all__ = ["QUANTILE", "between", "difference", "interleaved", "resolution"]

QUANTILE = 0.95  # share of comparisons of the same code that stay below the resolution

Block = Sequence[float]  # times of single calls, in the order of the calls


def difference(first: float, second: float) -> float:
    """The relative difference of two times: the larger one divided by the smaller one, minus 1."""
    return max(first, second) / min(first, second) - 1


def interleaved(measure: Callable[[], Block]) -> tuple[float, list[Block]]:
    """Compare the same code with itself in the order A B B A, which cancels a steady drift.

    Args:
        measure: returns the times of one block of calls.

    Returns:
        The difference of the median of both blocks A and the median of both blocks B, and the four
        blocks in the order of time.
    """
    blocks = [measure() for _ in range(4)]
    a, b = [*blocks[0], *blocks[3]], [*blocks[1], *blocks[2]]
    return difference(statistics.median(a), statistics.median(b)), blocks


def between(processes: Iterable[Block]) -> list[float]:
    """The differences of all pairs of processes in one case.

    Args:
        processes: medians of the case in each process, as many in each.
    """
    pairs = itertools.combinations(list(processes), 2)
    return [difference(a, b) for one, other in pairs for a, b in zip(one, other, strict=True)]


def resolution(differences: Sequence[float]) -> float | None:
    """The difference that a new comparison of the same code stays below with 95 % probability.

    This is the order statistic of rank ceil(0.95 (n + 1)) of n differences. It holds for any
    distribution, if the new comparison is made as these were and the load of the machine does not
    change. None if n is below 19, where no order statistic has this probability.
    """
    rank = math.ceil(QUANTILE * (len(differences) + 1))
    return sorted(differences)[rank - 1] if rank <= len(differences) else None
