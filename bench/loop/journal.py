"""The journal of a run: one line before each case and one after it, synchronised to disk.

All other files in the folder of a run are derived from it and can be rebuilt.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Generic, cast

from bench.loop.workload import Entry, RowT, Workload
from bench.schema.columns import AskedAttention
from bench.schema.environment_file import Duration
from bench.schema.journal_lines import HEADER, JOURNAL, details_of, events
from bench.schema.measurement import Raw
from bench.schema.row import Row
from bench.schema.validation import (
    FileError,
    convert,
    is_file,
    name_of,
    read_bytes,
    shown,
)

FILE = JOURNAL


class JournalError(FileError):
    """A folder has no readable journal."""


class Journal:
    """Appends events to the journal of a run; raises OSError if writing fails."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._file: IO[str] = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise JournalError(f"{folder} is in use by another run") from None
        if self.path.exists():
            _drop_partial_line(self.path)

    def header(self, **content: Any) -> None:
        """Write the settings of the run, once, as the first line."""
        self._write({"event": HEADER, **content})

    def machine(self, host: str, environment: Mapping[str, Any]) -> None:
        """Another machine than that of the header measures cases from now on."""
        self._write({"event": "machine", "host": host, "environment": environment})

    def selfcheck(self, host: str, when: str, found: Mapping[str, Any]) -> None:
        """A check of the noise of a machine; `when` is start or end."""
        self._write({"event": "selfcheck", "host": host, "when": when, "found": found})

    def started(self, case: AskedAttention) -> None:
        """The measurement of a case begins."""
        self._write({"event": "started", "case_id": case.case_id, "case": case.values})

    def result(self, row: Row[Any], raw: Raw, seconds: float = 0.0) -> None:
        """A case has a row, `seconds` after its start."""
        self._write(
            {
                "event": "result",
                "case_id": row.case.case_id,
                "row": row.values,
                "samples_ms": list(raw.samples_ms),
                "details": [detail.values for detail in raw.details],
                "seconds": round(seconds, 4),
                "shared_seconds": round(raw.shared_seconds, 4),
            }
        )

    def interrupted(self, case: AskedAttention) -> None:
        """A started case ends without a result for a reason outside of the case."""
        self._write({"event": "interrupted", "case_id": case.case_id})

    def duration(self, duration: Duration) -> None:
        """The cases of a command are measured."""
        self._write({"event": "duration", **duration})

    def copy(self, event: Mapping[str, Any]) -> None:
        """Write an event of another journal."""
        self._write(dict(event))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@dataclass(frozen=True)
class Recorded(Generic[RowT]):
    """The contents of a journal."""

    header: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry[RowT]] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)  # how often a case was started
    # How often a case was started and not interrupted.
    attempts: Counter[str] = field(default_factory=Counter)
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)  # environments by host
    selfchecks: dict[str, dict[str, Any]] = field(default_factory=dict)  # by host, then by time
    durations: list[Duration] = field(default_factory=list)

    @property
    def results(self) -> dict[str, RowT]:
        """The rows by the id of their cases."""
        return {case_id: entry.row for case_id, entry in self.entries.items()}


def begun(folder: Path) -> bool:
    """Whether a folder holds a run. A run that died before it wrote its header does not count."""
    path = folder / FILE
    return is_file(path) and b"\n" in read_bytes(path)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds the journal of a run that died before it wrote its header."""
    return is_file(folder / FILE) and not begun(folder)


def header(folder: Path, workload: type[Workload[Any, Any]]) -> dict[str, Any]:
    """The settings of a run. JournalError as in `read`; the results are not read."""
    recorded: Recorded[Any] = Recorded()
    for source, event in islice(events(folder), 1):
        _add(event, recorded, source, workload)
    _check_header(recorded, folder)
    return recorded.header


def read(folder: Path, workload: type[Workload[Any, RowT]]) -> Recorded[RowT]:
    """Read the journal of a workload. An incomplete last line is ignored.

    FileError if the folder has no journal, that of another command, or one with a line that does
    not fit.
    """
    recorded: Recorded[RowT] = Recorded()
    for source, event in events(folder):
        _add(event, recorded, source, workload)
    _check_header(recorded, folder)
    return recorded


def _check_header(recorded: Recorded[Any], folder: Path) -> None:
    if not recorded.header:
        raise JournalError(
            f"{name_of(folder)} holds no run that could be resumed (no {FILE} with a header)"
        )


def _add(
    event: dict[str, Any],
    recorded: Recorded[RowT],
    source: str,
    workload: type[Workload[Any, RowT]],
) -> None:
    kind = event["event"]
    if kind == HEADER:
        _add_header(event, recorded, source, workload)
    elif kind == "machine":
        recorded.machines[event["host"]] = event["environment"]
    elif kind == "selfcheck":
        recorded.selfchecks.setdefault(event["host"], {})[event["when"]] = event["found"]
    elif kind == "duration":
        names = ("predicted_seconds", "took_seconds", "other_seconds")
        recorded.durations.append(cast(Duration, {name: event.get(name) for name in names}))
    elif kind in ("started", "interrupted"):
        step = 1 if kind == "started" else -1
        recorded.starts[event["case_id"]] += kind == "started"
        recorded.attempts[event["case_id"]] = max(0, recorded.attempts[event["case_id"]] + step)
    else:
        try:
            row = workload.row_type.of_values(event["row"])
            rows = [workload.detail_type.of_values(detail) for detail in details_of(event)]
        except ValueError as error:
            raise JournalError(f"{source}: {error}") from None
        if row.case.case_id != event["case_id"]:
            raise JournalError(
                f"{source}: expected the row of case {shown(event['case_id'])}, got that of "
                f"{row.case.case_id}"
            )
        seconds, shared = event.get("seconds"), event.get("shared_seconds", 0.0)
        before = recorded.entries.get(event["case_id"])
        if before and before.seconds is not None and seconds is not None:  # it was measured twice
            seconds, shared = seconds + before.seconds, shared + before.shared_seconds
        recorded.entries[event["case_id"]] = Entry(row, rows, seconds, shared)


def _add_header(
    event: dict[str, Any],
    recorded: Recorded[Any],
    source: str,
    workload: type[Workload[Any, Any]],
) -> None:
    if (other := event.get("command", "run")) != workload.command:
        raise JournalError(
            f"{source} holds a run of `python -m bench {name_of(str(other))}`; expected one of "
            f"`python -m bench {workload.command}`"
        )
    if recorded.header and recorded.header != event:
        raise JournalError(f"{source}: expected one header, got a second one of another run")
    convert(event, workload.header_type, source)
    try:
        for values in event.get("cases", ()):
            workload.row_type.case_type.of_values(values)
    except ValueError as error:
        raise JournalError(f"{source}: {error}") from None
    recorded.header.update(event)
    environment = event["environment"]
    recorded.machines[environment.get("host", "")] = environment


def _drop_partial_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
