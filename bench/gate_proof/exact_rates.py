"""Shares with exact intervals."""

from __future__ import annotations

import mpmath


def rate(count: int, total: int) -> str:
    """A share, with its exact 95 % interval (Clopper and Pearson)."""
    low = _share(count, total - count + 1, 0.025) if count else 0.0
    high = _share(count + 1, total - count, 0.975) if count < total else 1.0
    return f"{count} of {total} ({count / max(1, total):.2%}, interval {low:.2%} to {high:.2%})"


def _share(a: int, b: int, quantile: float) -> float:
    """The quantile of a beta distribution, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        below = mpmath.betainc(a, b, 0, middle, regularized=True) < quantile
        low, high = (middle, high) if below else (low, middle)
    return high
