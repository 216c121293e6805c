"""The journal of a run: one line before each case and one after it, synchronised to disk.

All other files in the folder of a run are derived from it and can be rebuilt.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic

from bench.loop.workload import Entry, RowT, Workload
from bench.schema.columns import AskedAttention
from bench.schema.measurement import Raw
from bench.schema.rows import Row

FILE = "journal.jsonl"


class JournalError(ValueError):
    """A folder has no readable journal."""


class _OfAnother(JournalError):
    """A folder has the journal of another command."""


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
        self._write({"event": "run", **content})

    def machine(self, host: str, environment: Mapping[str, Any]) -> None:
        """Another machine than that of the header measures cases from now on."""
        self._write({"event": "machine", "host": host, "environment": environment})

    def selfcheck(self, host: str, when: str, found: Mapping[str, Any]) -> None:
        """A check of the noise of a machine; `when` is start or end."""
        self._write({"event": "selfcheck", "host": host, "when": when, "found": found})

    def started(self, case: AskedAttention) -> None:
        self._write({"event": "started", "case_id": case.case_id, "case": case.values})

    def result(self, row: Row[Any], raw: Raw) -> None:
        self._write(
            {
                "event": "result",
                "case_id": row.case.case_id,
                "row": row.values,
                "samples_ms": list(raw.samples_ms),
                "details": [detail.values for detail in raw.details],
            }
        )

    def interrupted(self, case: AskedAttention) -> None:
        """A started case ends without a result for a reason outside of the case."""
        self._write({"event": "interrupted", "case_id": case.case_id})

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
    # How often a case was started and not interrupted.
    attempts: Counter[str] = field(default_factory=Counter)
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)  # environments by host
    selfchecks: dict[str, dict[str, Any]] = field(default_factory=dict)  # by host, then by time

    @property
    def results(self) -> dict[str, RowT]:
        """The rows by the id of their cases."""
        return {case_id: entry.row for case_id, entry in self.entries.items()}


def begun(folder: Path) -> bool:
    """Whether a folder holds a run. A run that died before it wrote its header does not count."""
    path = folder / FILE
    return path.exists() and b"\n" in path.read_bytes()


def header(folder: Path, workload: type[Workload[Any, Any]]) -> dict[str, Any]:
    """The settings of a run. JournalError as in `read`; the results are not read."""
    try:
        first = next(_events(folder / FILE), None)
    except ValueError as error:
        raise _damaged(folder, error) from error
    if first is not None and (not isinstance(first, dict) or first.get("event") != "run"):
        raise _damaged(folder, "expected the settings of a run in the first line")
    if first is None:
        raise JournalError(f"{folder} holds no run that could be resumed (no {FILE} with a header)")
    _check_command(first, folder, workload)
    return first


def read(folder: Path, workload: type[Workload[Any, RowT]]) -> Recorded[RowT]:
    """Read the journal of a workload. An incomplete last line is ignored.

    JournalError if the folder has no journal, or that of another command.
    """
    recorded: Recorded[RowT] = Recorded()
    try:
        for event in _events(folder / FILE):
            _add(event, recorded, folder, workload)
    except _OfAnother:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error
    if not recorded.header:
        raise JournalError(f"{folder} holds no run that could be resumed (no {FILE} with a header)")
    return recorded


def _add(
    event: dict[str, Any],
    recorded: Recorded[RowT],
    folder: Path,
    workload: type[Workload[Any, RowT]],
) -> None:
    kind = event["event"]
    if kind == "run":
        recorded.header.update(event)
        _check_command(event, folder, workload)
        environment = event.get("environment", {})
        recorded.machines[environment.get("host", "")] = environment
    elif kind == "machine":
        recorded.machines[event["host"]] = event["environment"]
    elif kind == "selfcheck":
        recorded.selfchecks.setdefault(event["host"], {})[event["when"]] = event["found"]
    elif kind in ("started", "interrupted"):
        step = 1 if kind == "started" else -1
        recorded.attempts[event["case_id"]] = max(0, recorded.attempts[event["case_id"]] + step)
    else:
        details = event.get("details", event.get("heads", []))  # `heads` in older journals
        recorded.entries[event["case_id"]] = Entry(
            workload.row_type.of_values(event["row"]),
            [workload.detail_type.of_values(detail) for detail in details],
        )


def _check_command(
    event: Mapping[str, Any], folder: Path, workload: type[Workload[Any, Any]]
) -> None:
    if (other := event.get("command", "run")) != workload.command:
        raise _OfAnother(f"{folder} holds a run of `python -m bench {other}`")


def _damaged(folder: Path, why: object) -> JournalError:
    return JournalError(f"{folder / FILE} is damaged, or of another version: {why!r}")


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return  # the run died while it wrote this line
            yield json.loads(line)


def _drop_partial_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
