"""The numbers of a case that are better if they are smaller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.export.exported_run import Values

TIME = "time_ms_median"
ERROR = "approx_error_rel_l2"
OTHER_KERNEL = "other_kernel"  # the target of methods that do not approximate softmax attention
COUNTS = ("peak_memory_bytes", "saved_for_backward_bytes", "state_bytes")
ROUNDING = "impl_error_rel_l2"


@dataclass(frozen=True)
class ExportedNumber:
    """A number of a case.

    Attributes:
        column: the column that it is from.
        unit: its unit.
        value: the number.
        low: lower end of its interval: quartiles of the time, 95 % of the error; None without one.
        high: upper end of the interval.
    """

    column: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None


def numbers_of(row: Values) -> Iterator[ExportedNumber]:
    """The numbers of a row with status ok. Those that do not apply are left out.

    The error of a method that does not approximate softmax attention is left out: it is a
    difference between two operators, and a smaller difference is not better. It is also left out if
    the target of the method is not known.
    """
    yield ExportedNumber(TIME, "ms", row[TIME], row["time_ms_q1"], row["time_ms_q3"])
    for name in COUNTS:
        if row[name] is not None:
            yield ExportedNumber(name, "bytes", row[name])
    if row[ERROR] is not None and row["target"] not in ("", OTHER_KERNEL):
        low, high = row["approx_error_low"], row["approx_error_high"]
        yield ExportedNumber(ERROR, "relative L2 error", row[ERROR], low, high)
    if row[ROUNDING] is not None:
        yield ExportedNumber(ROUNDING, "relative L2 error", row[ROUNDING])
