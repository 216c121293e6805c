"""Reads stored runs, and refuses those that the present run must not be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

from msgspec import Meta
from pytest_benchmark.storage.file import FileStorage

from bench.schema.column_types import Amount, Count, Name
from bench.schema.environment_file import Hardware, ProcessFacts
from bench.schema.machine_kind import differences, fingerprint
from bench.schema.validation import FileError, UserError, name_of, read_json
from tests.tracking.machine import SCHEMA

MOST_SHOWN = 5  # machines in a message


class StoredMachine(TypedDict, total=False):
    """The machine of a stored run."""

    schema: Name
    fingerprint: Required[Name]
    hardware: Required[Hardware]
    software: Required[dict[str, str | None]]
    settings: Required[dict[str, str]]
    process: ProcessFacts


class StoredTimes(TypedDict):
    """The statistics of the times of a call that a table or a comparison can show, in seconds."""

    min: Amount
    max: Amount
    mean: Amount
    median: Amount
    stddev: Amount
    iqr: Amount
    q1: Amount
    q3: Amount
    total: Amount
    ops: Amount
    ld15iqr: Amount
    hd15iqr: Amount
    rounds: Count
    iterations: Count
    stddev_outliers: int
    iqr_outliers: int
    outliers: str


class StoredInfo(TypedDict):
    """The numbers of a call that are not times, and its case."""

    case: dict[str, str | int | float | bool | None]


class StoredBenchmark(TypedDict):
    """A call."""

    name: Name
    fullname: Name
    stats: StoredTimes
    extra_info: StoredInfo


class StoredRun(TypedDict):
    """The content of a stored file."""

    machine_info: StoredMachine
    benchmarks: Annotated[list[StoredBenchmark], Meta(min_length=1)]


class RefusedError(UserError):
    """The present run cannot be compared. The message names the files and the reason."""


def read(path: Path) -> dict[str, Any]:
    """The content of a stored file.

    FileError if it is no JSON, has another schema, or was changed after it was stored.
    """
    schema = read_json(path, dict[str, Any]).get("machine_info")
    schema = schema.get("schema") if isinstance(schema, dict) else None
    if schema != SCHEMA:
        raise FileError(
            f"{name_of(path)}: expected the schema {SCHEMA} in machine_info, got {schema!r}; "
            "`make track` stores a run that can be compared"
        )
    run = read_json(path, StoredRun)
    stated, found = run["machine_info"]["fingerprint"], fingerprint(run["machine_info"])
    if stated != found:
        raise FileError(
            f"{name_of(path)}: machine_info has the fingerprint {stated}, and its facts give "
            f"{found}; the file was changed after it was stored"
        )
    return run


def check(folder: Path, asked: str | bool, present: Mapping[str, Any], machine_id: str) -> None:
    """Refuse a comparison with stored runs, before anything is measured.

    Args:
        folder: the folder of `--benchmark-storage`.
        asked: the value of `--benchmark-compare`; True is the last run.
        present: the present `machine_info`.
        machine_id: name of the folder in which pytest-benchmark stores runs.

    Raises:
        RefusedError: there is no such run, or it is of another machine.
        FileError: a file cannot be used.
    """
    found = _asked_for(folder, asked, machine_id)
    if not found:
        wanted = "no stored run" if asked is True else f"no stored run {asked}"
        others = _others(folder.parent, present) if asked is True else ""
        raise RefusedError(
            f"{name_of(folder)} holds {wanted} to compare with; `make track` stores one{others}"
        )
    for path in found:
        if changed := differences(read(path)["machine_info"], present):
            raise RefusedError(
                f"{name_of(path)} was measured on another machine or installation, and its times "
                f"are not compared: {'; '.join(changed)}"
            )


def _asked_for(folder: Path, asked: str | bool, machine_id: str) -> list[Path]:
    """The files that pytest-benchmark compares with."""
    if not folder.is_dir() and asked is True:
        return []
    try:
        # This class makes the folder; pytest-benchmark makes it too.
        storage = FileStorage(folder, None, default_machine_id=machine_id)
        if asked is True:
            return storage.query("[0-9][0-9][0-9][0-9]_")[-1:]
        return [path for path in storage.query(asked) if path.is_file()]
    except ValueError:
        raise RefusedError(
            f"--benchmark-compare={name_of(str(asked))}: expected a file, or the number of a run "
            f"in {name_of(folder)}"
        ) from None


def _others(folder: Path, present: Mapping[str, Any]) -> str:
    """A sentence on the runs of other machines that are stored beside a missing one."""
    newest: dict[Path, str] = {}
    for path in sorted(folder.glob("*/*/[0-9][0-9][0-9][0-9]_*.json")):
        try:
            changed = differences(read(path)["machine_info"], present)
        except FileError as error:
            newest[path.parents[1]] = str(error)
            continue
        newest[path.parents[1]] = "; ".join(changed)
    if not newest:
        return ""
    listed = [f"\n  {name_of(path)}: {why}" for path, why in newest.items() if why]
    more = f"\n  and {len(listed) - MOST_SHOWN} more" if len(listed) > MOST_SHOWN else ""
    return ". Runs of other machines are not compared:" + "".join(listed[:MOST_SHOWN]) + more
