"""Reads the files that `make track` stores: pytest-benchmark JSON with a described machine.

A file that cannot be used does not hide the others. It is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bench.schema.environment_file import Hardware
from bench.schema.machine_kind import hardware_differences, installation_differences
from bench.schema.validation import FileError, is_folder, name_of, one_line, read_bytes, shown

SCHEMA = "attention-tracking-1"
PATTERN = "*.json"
UNVERSIONED = (
    "unversioned"  # the commit of a run outside a repository, as pytest-benchmark names it
)
Scalar = str | int | float | bool | None
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class TrackedTimes(msgspec.Struct):
    """The times of all rounds of a call, in seconds."""

    data: Annotated[list[Seconds], msgspec.Meta(min_length=1)]


class TrackedCase(msgspec.Struct):
    """One benchmark of a file; `extra_info` has its case and its numbers."""

    fullname: str
    group: str
    stats: TrackedTimes
    extra_info: dict[str, Any]

    @property
    def case(self) -> dict[str, Scalar]:
        """The columns of the case."""
        return self.extra_info["case"]


class TrackedMachine(msgspec.Struct):
    """The machine of a file; its parts are those of environment.json."""

    schema: str
    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{10}$")]
    hardware: Hardware
    software: dict[str, str | None]
    settings: dict[str, str]
    process: dict[str, Any] = {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """The parts that `bench.schema.machine_kind` compares."""
        return msgspec.to_builtins(self)


class TrackedCommit(msgspec.Struct):
    """The commit of a file. `dirty`: its tree held changes that are in no commit."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    time: str | None = None
    author_time: str | None = None
    dirty: bool = False


class TrackedFile(msgspec.Struct):
    """The content of a stored file."""

    machine_info: TrackedMachine
    commit_info: TrackedCommit
    benchmarks: Annotated[list[TrackedCase], msgspec.Meta(min_length=1)]
    datetime: str


class SchemaOfFile(msgspec.Struct):
    """The part of a file that says whether this version can read it."""

    machine_info: dict[str, Any]
    benchmarks: list[Any]


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
    kinds: dict[str, TrackedRun] = {}
    for path in paths:
        try:
            run = read_tracked(path)
            _check_machine(kinds.setdefault(run.fingerprint, run), run)
        except FileError as error:
            skipped.append(str(error))
        else:
            runs.append(run)
    if not runs:
        more = f"; the other {len(skipped) - 1} files cannot be used either" * (len(skipped) > 1)
        raise FileError(f"{skipped[0]}{more}")
    return StoredHistory(sorted(runs, key=lambda run: (run.commit_time, run.run_time)), skipped)


def read_tracked(path: Path) -> TrackedRun:
    """One stored file. FileError if it cannot be used."""
    content, source = read_bytes(path), name_of(path)
    schema = _decoded(content, SchemaOfFile, source).machine_info.get("schema")
    if schema != SCHEMA:
        raise FileError(
            f"{source}: expected the schema {SCHEMA} in machine_info, got {shown(schema)}; only "
            "runs of `make track` have a history"
        )
    stored = _decoded(content, TrackedFile, source)
    for benchmark in stored.benchmarks:
        _check_case(benchmark, source)
    commit = stored.commit_info
    run_time = _time(stored.datetime, f"{source}: datetime")
    written = commit.time or commit.author_time
    commit_time = _time(written, f"{source}: time in commit_info") if written else run_time
    return TrackedRun(path, stored, commit_time, run_time)


def _decoded(content: bytes, kind: Any, source: str) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise FileError(f"{source} is no stored run of `make track`: {one_line(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"{source} is not a whole JSON file: {one_line(error)}") from None


def _check_case(benchmark: TrackedCase, source: str) -> None:
    place = f"{source}: {name_of(benchmark.fullname)}"
    case = benchmark.extra_info.get("case")
    if not isinstance(case, dict) or not isinstance(case.get("variant"), str):
        raise FileError(f"{place}: expected the columns of a case in extra_info, got {shown(case)}")
    for name, value in case.items():
        if isinstance(value, dict | list):
            raise FileError(f"{place}: case: {name}: expected one value, got {shown(value)}")


def _time(text: str, place: str) -> datetime:
    """A time with its zone; pytest-benchmark writes UTC if a text names no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise FileError(f"{place}: expected a time in ISO 8601, got {shown(text)}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _check_machine(first: TrackedRun, run: TrackedRun) -> None:
    """Times of one fingerprint are joined, so its facts must be the same in all files."""
    pair = first.content.machine_info.facts, run.content.machine_info.facts
    if changed := hardware_differences(*pair) + installation_differences(*pair):
        raise FileError(
            f"{name_of(run.path)} has the fingerprint of {name_of(first.path)}, but "
            f"{'; '.join(changed)}; one of the two was changed after it was stored"
        )
