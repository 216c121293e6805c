"""The differences between the counts of a file and those of the code, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.counts.call_counts import CallCounts
from bench.counts.dispatched_operations import Operation
from bench.schema.error_tolerances import ROUNDING, errors_agree

ROUNDED = 1e-6  # an error of a gradient up to this size is one of rounding
NONE = Operation(0, 0)


@dataclass(frozen=True)
class Difference:
    """A case that changed, and a sentence for each number that did."""

    case: str
    sentences: tuple[str, ...]


def differences(
    before: Mapping[str, CallCounts], now: Mapping[str, CallCounts], place: str = "the file"
) -> list[Difference]:
    """All differences, in the order of the names of the cases.

    Args:
        before: the counts before.
        now: those of the code.
        place: where the counts before are from, in words.
    """
    found = []
    for name in sorted({*before, *now}):
        if name not in now:
            sentences: tuple[str, ...] = (f"is in {place}, and the code has no such case",)
        elif name not in before:
            sentences = (f"is not in {place}",)
        else:
            sentences = tuple(_changes(before[name], now[name]))
        if sentences:
            found.append(Difference(name, sentences))
    return found


def _changes(before: CallCounts, now: CallCounts) -> Iterator[str]:
    for name in ("peak_bytes", "saved_bytes", "useful_flops", "gpu_bytes"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            yield f"{name}: {_number(old)} before, {_number(new)} now{_share(old, new)}"
    for name in sorted({*before.at_peak, *now.at_peak}):
        held = before.at_peak.get(name, 0), now.at_peak.get(name, 0)
        if held[0] != held[1]:
            yield f"at the peak, tensors of {name} hold {held[0]:,} bytes before, {held[1]:,} now"
    yield from _changed_errors(before, now)
    for name in sorted({*before.operations, *now.operations}):
        first, second = before.operations.get(name, NONE), now.operations.get(name, NONE)
        if first != second:
            yield (
                f"operation {name}: {_times(first.calls)} before, {_times(second.calls)} now; it "
                f"makes {_number(first.bytes)} bytes before, {_number(second.bytes)} now"
            )
    for name in sorted({*before.gpu_launches, *now.gpu_launches}):
        launches = before.gpu_launches.get(name, 0), now.gpu_launches.get(name, 0)
        if launches[0] != launches[1]:
            yield f"GPU kernel {name}: {launches[0]} launches before, {launches[1]} now"


def _changed_errors(before: CallCounts, now: CallCounts) -> Iterator[str]:
    smaller, larger = sorted((before.rounding_error, now.rounding_error))
    if not errors_agree(before.error, now.error, smaller):
        yield f"error: {before.error:.6g} before, {now.error:.6g} now"
    if not larger - smaller <= ROUNDING * smaller:  # NaN is a difference
        yield f"rounding_error: {before.rounding_error:.3g} before, {now.rounding_error:.3g} now"
    for name in dict.fromkeys([*before.gradient_errors, *now.gradient_errors]):
        old, new = (one.gradient_errors.get(name, math.nan) for one in (before, now))
        if not errors_agree(old, new, min(old, ROUNDED)):
            yield f"error of the gradient of the {name}: {old:.6g} before, {new:.6g} now"


def _times(calls: int) -> str:
    return "1 call" if calls == 1 else f"{calls} calls"


def _number(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"


def _share(old: int | None, new: int | None) -> str:
    return f" ({new / old - 1:+.1%})" if old and new else ""
