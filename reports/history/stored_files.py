"""Reads the files that `make track` stores, in the order of their commits.

A file that cannot be used does not hide the others. It is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.schema.tracking_file import TrackedFile, read_tracking_file
from bench.schema.validation import FileError, is_folder, name_of, shown

PATTERN = "*.json"


@dataclass(frozen=True)
class TrackedRun:
    """A file, the time of its commit and the time of its run."""

    path: Path
    content: TrackedFile
    commit_time: datetime
    run_time: datetime

    @property
    def fingerprint(self) -> str:
        """The name of the kind of machine."""
        return self.content.machine_info.fingerprint


@dataclass(frozen=True)
class StoredHistory:
    """All runs of a folder in the order of their commits, and a sentence for each skipped file."""

    runs: Sequence[TrackedRun]
    skipped: Sequence[str]


def read_history(folder: Path) -> StoredHistory:
    """The runs in a folder and in the folders below it.

    Raises:
        FileError: the folder is missing, holds no JSON file, or holds none that can be used.
    """
    if not is_folder(folder):
        raise FileError(
            f"{name_of(folder)}: expected a folder with stored runs; `make track` makes one"
        )
    paths = sorted(folder.rglob(PATTERN))
    if not paths:
        raise FileError(f"{name_of(folder)} holds no stored run; `make track` stores one")
    runs: list[TrackedRun] = []
    skipped: list[str] = []
    for path in paths:
        try:
            runs.append(read_tracked(path))
        except FileError as error:
            skipped.append(str(error))
    if not runs:
        more = f"; the other {len(skipped) - 1} files cannot be used either" * (len(skipped) > 1)
        raise FileError(f"{skipped[0]}{more}")
    return StoredHistory(sorted(runs, key=lambda run: (run.commit_time, run.run_time)), skipped)


def read_tracked(path: Path) -> TrackedRun:
    """One stored file. FileError if it cannot be used."""
    stored, source = read_tracking_file(path), name_of(path)
    commit = stored.commit_info
    run_time = _time(stored.datetime, f"{source}: datetime")
    written = commit.time or commit.author_time
    commit_time = _time(written, f"{source}: time in commit_info") if written else run_time
    return TrackedRun(path, stored, commit_time, run_time)


def _time(text: str, place: str) -> datetime:
    """A time with its zone; pytest-benchmark writes UTC if a text names no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise FileError(f"{place}: expected a time in ISO 8601, got {shown(text)}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
