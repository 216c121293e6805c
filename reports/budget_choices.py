"""The method that is chosen at each error budget, without other limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from math import inf

from reports.recommender.candidate import Candidate
from reports.recommender.choose import choose

DIGITS = 3  # of a budget


@dataclass(frozen=True)
class BudgetChoice:
    """The method that is chosen from this error budget on, up to that of the next choice."""

    max_error: float
    chosen: Candidate


def budget_choices(candidates: Sequence[Candidate]) -> list[BudgetChoice]:
    """The choices at all error budgets, the smallest budget first.

    Budgets have three significant digits. The first one is twice the smallest upper end of an error
    of exact attention, because smaller errors are rounding.
    """
    ends = [it.error_high for it in candidates if not it.excluded and it.error_high < inf]
    exact = [it.error_high for it in candidates if it.is_exact and not it.excluded]
    least = _rounded_up(2 * min(exact)) if exact else 0.0
    budgets = sorted({max(least, _rounded_up(end)) for end in ends})
    choices: list[BudgetChoice] = []
    for budget in budgets:
        found = choose(candidates, budget).chosen
        if found and (not choices or found is not choices[-1].chosen):
            choices.append(BudgetChoice(budget, found))
    return choices


def _rounded_up(error: float) -> float:
    """The next number with `DIGITS` significant digits: 0.28412 -> 0.285."""
    exactly = Decimal(repr(error))
    if not exactly:
        return 0.0
    last = Decimal(1).scaleb(exactly.adjusted() - DIGITS + 1)
    return float(exactly.quantize(last, ROUND_CEILING))
