"""The differences of errors that are no change of the code."""

from __future__ import annotations

RELATIVE = 1e-3  # of the error of a method
ROUNDING = 0.5  # of an error of rounding, because CPUs round in different orders


def errors_agree(before: float, now: float, rounding: float) -> bool:
    """Whether two errors are equal up to rounding; never, if one is NaN.

    Args:
        before: an error.
        now: another.
        rounding: the part of `before` that is rounding.
    """
    return abs(now - before) <= RELATIVE * before + ROUNDING * rounding
