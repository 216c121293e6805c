"""The journal of a run: one line before each case and one after it, synchronised to disk.

All other files in the folder of a run are derived from it and can be rebuilt.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

from bench.schema.measurement import HeadRow, Measurement, Raw, Status

FILE = "journal.jsonl"


class Asked(Protocol):
    """A case, which is a dataclass."""

    @property
    def case_id(self) -> str: ...


class Seen(Protocol):
    """A row of a case, which is a dataclass."""

    @property
    def case(self) -> Asked: ...


Row = TypeVar("Row", bound=Seen)


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

    def started(self, case: Asked) -> None:
        self._write({"event": "started", "case_id": case.case_id, "case": _fields(case)})

    def result(self, row: Seen, raw: Raw) -> None:
        self._write(
            {
                "event": "result",
                "case_id": row.case.case_id,
                "row": _fields(row),
                "samples_ms": list(raw.samples_ms),
                "heads": [dataclasses.asdict(head) for head in raw.heads],
            }
        )

    def interrupted(self, case: Asked) -> None:
        """A started case ends without a result because the run was interrupted."""
        self._write({"event": "interrupted", "case_id": case.case_id})

    def close(self) -> None:
        self._file.close()

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _fields(instance: Any) -> dict[str, Any]:
    return dataclasses.asdict(instance)


@dataclasses.dataclass(frozen=True)
class Record(Generic[Row]):
    """The contents of a journal."""

    header: dict[str, Any]
    results: dict[str, Row]
    heads: dict[str, Sequence[HeadRow]]
    attempts: dict[str, int]  # number of times that a case was started and not interrupted


def begun(folder: Path) -> bool:
    """Whether a folder holds a run. A run that died before it wrote its header does not count."""
    path = folder / FILE
    return path.exists() and b"\n" in path.read_bytes()


def read(folder: Path) -> Record[Measurement]:
    """Read the journal of `python -m bench run`; JournalError if the folder has none."""
    return read_rows(folder, Measurement, "run")


def read_rows(folder: Path, kind: type[Row], command: str) -> Record[Row]:
    """Read a journal. An incomplete last line is ignored.

    JournalError if the folder has no journal, or that of another command.
    """
    header: dict[str, Any] = {}
    results: dict[str, Row] = {}
    heads: dict[str, Sequence[HeadRow]] = {}
    attempts: dict[str, int] = {}
    try:
        for event in _events(folder / FILE):
            if event["event"] == "run":
                header = event
                if (other := event.get("command", "run")) != command:
                    raise _OfAnother(f"{folder} holds a run of `python -m bench {other}`")
            elif event["event"] in ("started", "interrupted"):
                step = 1 if event["event"] == "started" else -1
                attempts[event["case_id"]] = max(0, attempts.get(event["case_id"], 0) + step)
            else:
                row = event["row"]
                results[event["case_id"]] = kind(**{**row, "status": Status(row["status"])})
                heads[event["case_id"]] = [HeadRow(**head) for head in event.get("heads", [])]
    except _OfAnother:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{folder / FILE} is damaged, or of another version: {error!r}"
        ) from error
    if not header:
        raise JournalError(f"{folder} holds no run that could be resumed (no {FILE} with a header)")
    return Record(header, results, heads, attempts)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            return  # the run died while it wrote this line
        yield json.loads(line)


def _drop_partial_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
