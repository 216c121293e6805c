"""Finds the first commit that made a case slower, by a binary search over measured ratios.

Each commit is measured against the good one. It lies nearer to the good or to the bad commit on
the logarithmic scale. A commit that cannot be measured is left out, and a neighbour is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.time_gate.gate import CaseOutcome


class Nearer(StrEnum):
    """The end of the range whose time is nearer to that of a commit."""

    GOOD = "nearer to good"
    BAD = "nearer to bad"
    NEITHER = "not decided"


@dataclass(frozen=True)
class BisectionStep:
    """One commit of the search.

    Attributes:
        candidates: number of commits before this step that may be the first slow one.
        commit: that was measured.
        outcome: of the commit against the good one.
        nearer: the decision.
    """

    candidates: int
    commit: str
    outcome: CaseOutcome
    nearer: Nearer


def first_slow(
    commits: Sequence[str],
    measure: Callable[[str], CaseOutcome],
    bad: CaseOutcome,
    report: Callable[[BisectionStep], None],
) -> list[str]:
    """The commits of which one is the first slow one, oldest first: one if it was found.

    Args:
        commits: all candidates, oldest first. The last one is as slow as the bad commit.
        measure: measures a commit against the good one.
        bad: the bad commit against the good one.
        report: called after each step.
    """
    candidates = list(commits)
    undecided: set[str] = set()
    while middle := _middle(candidates, undecided):
        outcome = measure(middle)
        decision = nearer(outcome, bad)
        report(BisectionStep(len(candidates), middle, outcome, decision))
        end = candidates.index(middle) + 1
        match decision:
            case Nearer.GOOD:
                candidates = candidates[end:]
            case Nearer.BAD:
                candidates = candidates[:end]
            case Nearer.NEITHER:
                undecided.add(middle)
    return candidates


def nearer(outcome: CaseOutcome, bad: CaseOutcome) -> Nearer:
    """The end that the time of a commit is nearer to; NEITHER if that is not known."""
    judged = outcome.judgement
    if judged is None or outcome.failure or outcome.missing:
        return Nearer.NEITHER
    half = _half(bad)
    if judged.high < half:
        return Nearer.GOOD
    return Nearer.BAD if judged.low > half else Nearer.NEITHER


def _half(bad: CaseOutcome) -> float:
    """The ratio in the middle between good and bad on the logarithmic scale."""
    assert bad.judgement is not None
    return math.sqrt(bad.judgement.ratio)


def _middle(candidates: Sequence[str], undecided: set[str]) -> str | None:
    """The usable commit nearest to the middle. The last suspect is known to be slow."""
    usable = [
        number for number in range(len(candidates) - 1) if candidates[number] not in undecided
    ]
    middle = (len(candidates) - 2) / 2
    return candidates[min(usable, key=lambda number: abs(number - middle))] if usable else None
