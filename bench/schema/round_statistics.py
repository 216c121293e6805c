"""Statistics of the rounds of a call, by the definitions of pytest-benchmark."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

ROUNDED = 1e-9  # relative; sums in another order differ by less
DIFFERENCES = ("stddev", "iqr")  # their rounding is that of the times that are subtracted
DATA = (
    "ld15iqr",
    "hd15iqr",
)  # each is one of the times; versions of pytest-benchmark choose others


def round_statistics(data: Sequence[float]) -> Mapping[str, float]:
    """The statistics of these times by the names of pytest-benchmark."""
    ordered = sorted(data)
    q1, q3, total = _quartile(ordered), _quartile(ordered[::-1]), math.fsum(data)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": total / len(data),
        "median": statistics.median(data),
        "stddev": statistics.stdev(data) if len(data) > 1 else 0.0,
        "q1": q1,
        "q3": q3,
        "iqr": q3 - q1,
        "total": total,
        "ops": len(data) / total,
        "rounds": len(data),
    }


def _quartile(ordered: Sequence[float]) -> float:
    """The quartile near the first number."""
    quarter, rest = divmod(len(ordered), 4)
    if len(ordered) == 1:
        return ordered[0]
    if rest == 1:
        return 0.25 * ordered[quarter - 1] + 0.75 * ordered[quarter]
    if rest == 3:
        return 0.75 * ordered[quarter] + 0.25 * ordered[quarter + 1]
    return statistics.median(ordered[: len(ordered) // 2])


def contradiction(stated: Mapping[str, float], data: Sequence[float]) -> str:
    """The first statistic that these times do not give, in words; empty if there is none."""
    greatest = max(data)
    for name, computed in round_statistics(data).items():
        rounding = ROUNDED * greatest if name in DIFFERENCES else 0.0
        if not math.isclose(stated[name], computed, rel_tol=ROUNDED, abs_tol=rounding):
            return f"{name} is {stated[name]:.6g}, and the times in data give {computed:.6g}"
    for name in DATA:
        if not any(math.isclose(stated[name], time, rel_tol=ROUNDED) for time in data):
            return f"{name} is {stated[name]:.6g}, and data has no such time"
    return ""
