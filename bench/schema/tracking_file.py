"""Reads a run that `make track` has stored: a file of pytest-benchmark with a described machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bench.schema.case import Case
from bench.schema.column_types import Amount, Count, Name
from bench.schema.environment_file import Hardware, ProcessFacts
from bench.schema.machine_kind import fingerprint
from bench.schema.measurement import Measurement
from bench.schema.round_statistics import contradiction
from bench.schema.validation import FileError, convert, name_of, parse_json, read_text, shown

# The number rises when `machine_kind.fingerprint` uses other facts: it is computed again from the
# facts of each file that is read.
SCHEMA = "attention-tracking-1"
# The commit of a run outside a repository, and of a run in which git failed, as pytest-benchmark
# names them.
NO_COMMIT = ("unversioned", "unknown")
Seconds = Annotated[float, Meta(gt=0, le=1e7, description="a time from 0 to 1e+07 seconds")]


class TrackedMachine(msgspec.Struct, frozen=True):
    """The machine of a file; its parts are those of environment.json."""

    schema: Name
    fingerprint: Name
    hardware: Hardware
    software: dict[str, str | None]
    settings: dict[str, str]
    process: ProcessFacts = {}

    @property
    def facts(self) -> dict[str, Any]:
        """The parts that `bench.schema.machine_kind` compares."""
        return msgspec.structs.asdict(self)


class TrackedCommit(msgspec.Struct, frozen=True):
    """The commit of a file. `dirty`: its tree held changes that are in no commit."""

    id: Annotated[Name, Meta(min_length=1)]
    time: str | None = None
    author_time: str | None = None
    dirty: bool = False

    @property
    def is_known(self) -> bool:
        """Whether the file has a commit. Runs without one may be of different code."""
        return self.id not in NO_COMMIT


class TrackedTimes(msgspec.Struct, frozen=True):
    """The times of all rounds of a call, and their statistics, in seconds. pytest-benchmark shows
    and compares each of the statistics."""

    data: Annotated[list[Seconds], Meta(min_length=1)]
    min: Seconds
    max: Seconds
    mean: Seconds
    median: Seconds
    q1: Seconds
    q3: Seconds
    ld15iqr: Seconds
    hd15iqr: Seconds
    total: Seconds
    stddev: Amount
    iqr: Amount
    ops: Amount
    rounds: Count
    iterations: Count
    stddev_outliers: int
    iqr_outliers: int
    outliers: str


class TrackedCase(msgspec.Struct, frozen=True):
    """One benchmark of a file. `extra_info` has its case, and numbers with the names of columns."""

    name: Name
    fullname: Name
    group: Name
    stats: TrackedTimes
    extra_info: dict[str, Any]

    @property
    def case(self) -> dict[str, str | int | float | bool | None]:
        """The columns of the case, without those that came after the file."""
        return self.extra_info["case"]

    @property
    def implementation_used(self) -> str:
        """The implementation that was measured."""
        return self.extra_info["implementation_used"]


class TrackedFile(msgspec.Struct, frozen=True):
    """The content of a stored file."""

    machine_info: TrackedMachine
    commit_info: TrackedCommit
    benchmarks: Annotated[list[TrackedCase], Meta(min_length=1)]
    datetime: str


def read_tracking_file(path: Path) -> TrackedFile:
    """The content of a stored file.

    FileError if it is not a whole JSON file, is of another schema, has a value that does not fit,
    has facts of a machine that do not give its fingerprint, or has times that do not give their
    statistics.
    """
    source = name_of(path)
    content = parse_json(read_text(path), source)
    machine = content.get("machine_info") if isinstance(content, dict) else None
    schema = machine.get("schema") if isinstance(machine, dict) else None
    if schema != SCHEMA:
        raise FileError(
            f"{source} is no stored run of `make track`: expected the schema {SCHEMA} in "
            f"machine_info, got {shown(schema)}"
        )
    found: TrackedFile = convert(content, TrackedFile, source)
    stated, computed = found.machine_info.fingerprint, fingerprint(content["machine_info"])
    if stated != computed:
        raise FileError(
            f"{source}: machine_info has the fingerprint {shown(stated)}, and its facts give "
            f"{computed}; the file was changed after it was stored"
        )
    names: set[str] = set()
    for number, benchmark in enumerate(found.benchmarks):
        place = f"{source}: benchmarks[{number}]"
        if benchmark.fullname in names:
            raise FileError(f"{place}.fullname: {shown(benchmark.fullname)} is there twice")
        names.add(benchmark.fullname)
        _check_times(benchmark.stats, f"{place}.stats")
        _check_info(benchmark.extra_info, f"{place}.extra_info")
    return found


def _check_times(stats: TrackedTimes, place: str) -> None:
    if reason := contradiction(msgspec.structs.asdict(stats), stats.data):
        raise FileError(f"{place}.{reason}; the file was changed after it was stored")


def _check_info(info: Mapping[str, Any], place: str) -> None:
    convert(info.get("implementation_used"), Name, f"{place}.implementation_used")
    for name, column in Measurement.columns().items():
        if name in info and name in Measurement.numbers():
            convert(info[name], column.hint, f"{place}.{name}")
    case = info.get("case")
    if not isinstance(case, dict):
        raise FileError(f"{place}.case: expected the columns of a case, got {shown(case)}")
    try:
        Case.check(case)
    except ValueError as error:
        raise FileError(f"{place}.case: {error}") from None
    for name, value in case.items():  # also columns of later versions
        if isinstance(value, dict | list):
            raise FileError(f"{place}.case.{name}: expected one value, got {shown(value)}")
