"""Runs the measurement of a case, and checks that it leaves the process unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from bench.schema.measurement import Raw
from bench.schema.outcome import Status
from bench.schema.row import Row
from bench.workloads.failure import cleaned, failure
from bench.workloads.process_settings import Fingerprint, differences

__all__ = ["guarded"]

RowT = TypeVar("RowT", bound="Row[Any]")
MEASURED = (Status.OK, Status.INCORRECT, Status.IMPLAUSIBLE_TIME)
SHOWN = 3  # changes that a reason names


def guarded(
    work: Callable[[], tuple[RowT, Raw]],
    failed: Callable[[Status, str], RowT],
    files: Mapping[str, Path],
) -> tuple[RowT, Raw]:
    """Measure a case.

    If `work` leaves the process changed, the row has the status `error`, as its own numbers may
    have been measured under the changed settings. The process must then measure no other case.

    Args:
        work: measures the case.
        failed: the row of a case without results.
        files: paths of captures, by the names that stand for them in a reason.
    """
    before = Fingerprint.take()
    try:
        row, raw = work()
    except BaseException as error:  # such as SystemExit in an implementation
        row, raw = failed(*failure(error, files)), Raw()
    changed = _changed(before)
    if not changed:
        return row, raw
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    what = f"the implementation changed the process: {'; '.join(changed[:SHOWN])}{more}"
    if row.status in MEASURED:
        return failed(Status.ERROR, cleaned(what, files)), Raw(spoiled=True)
    row = replace(row, reason=cleaned(f"{row.reason}; {what}", files))
    return row, replace(raw, spoiled=True)


def _changed(before: Fingerprint) -> list[str]:
    try:
        return differences(before, Fingerprint.take())
    except BaseException as error:  # for example, no file can be opened any more
        return [f"its settings cannot be read ({failure(error, {})[1]})"]
