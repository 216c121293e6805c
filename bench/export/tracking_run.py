"""Reads a run that `make track` has stored: a file of pytest-benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

from msgspec import Meta

from bench.export.exported_run import ExportedRun, ExportError
from bench.schema.environment_file import Hardware
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.schema.validation import FileError, convert, name_of, parse_json, read_text, shown

SCHEMA = "attention-tracking-1"
Seconds = Annotated[float, Meta(gt=0, le=1e7, description="a time from 0 to 1e+07 seconds")]


class TrackedMachine(TypedDict, total=False):
    """The machine of a tracking file."""

    hardware: Required[Hardware]
    software: Required[dict[str, str | None]]
    settings: dict[str, str]


class TrackedTimes(TypedDict, total=False):
    """The statistics of pytest-benchmark that an export needs; seconds."""

    min: Required[Seconds]
    q1: Required[Seconds]
    median: Required[Seconds]
    q3: Required[Seconds]
    rounds: Required[Annotated[int, Meta(ge=1)]]
    data: list[Seconds]


class TrackedNumbers(TypedDict, total=False):
    """The case of a benchmark; its other numbers have the names of columns."""

    case: Required[dict[str, Any]]
    implementation_used: Required[str]


class TrackedBenchmark(TypedDict, total=False):
    """One case of a tracking file."""

    fullname: Required[str]
    extra_info: Required[TrackedNumbers]
    stats: Required[TrackedTimes]


class TrackingFile(TypedDict, total=False):
    """The parts of a tracking file that an export needs."""

    machine_info: Required[TrackedMachine]
    commit_info: dict[str, Any]
    datetime: str
    benchmarks: Required[list[TrackedBenchmark]]


def read_tracking(path: Path) -> ExportedRun:
    """Read a stored run of `make track`.

    Raises:
        FileError: the file cannot be read, is of another schema, or has a value that does not fit.
        ExportError: it has no benchmarks.
    """
    source = name_of(path)
    file: Any = parse_json(read_text(path), source)
    described = file.get("machine_info") if isinstance(file, dict) else None
    schema = described.get("schema") if isinstance(described, dict) else None
    if schema != SCHEMA:
        raise FileError(
            f"{source}: expected a file of `make track`, with the machine_info.schema {SCHEMA}, "
            f"got {shown(schema)}"
        )
    convert(file, TrackingFile, source)  # its result lacks the names that are not declared
    if not file["benchmarks"]:
        raise ExportError(f"{source} has no benchmarks: nothing has been measured yet")
    rows = []
    for number, benchmark in enumerate(file["benchmarks"]):
        try:
            rows.append(_row(benchmark))
        except ValueError as error:
            raise FileError(f"{source}: benchmarks[{number}]: {error}") from None
    machine = file["machine_info"]
    environment = {
        "started_utc": file.get("datetime", ""),
        **machine,
        "software": {"commit": file.get("commit_info", {}).get("id"), **machine["software"]},
    }
    samples = [[1e3 * s for s in each["stats"].get("data", ())] for each in file["benchmarks"]]
    return ExportedRun(source, rows, environment, samples)


def _row(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of results.csv; ValueError as in `Measurement.check`."""
    from variants import REGISTRY  # imports torch, which runs in a folder do not need

    extra, stats = benchmark["extra_info"], benchmark["stats"]
    case = Measurement.case_type.completed(extra["case"])
    variant = REGISTRY.get(case["variant"])
    times = {f"time_ms_{name}": 1e3 * stats[name] for name in ("min", "q1", "median", "q3")}
    numbers = {name: extra[name] for name in Measurement.numbers() if name in extra}
    return Measurement.completed(
        {
            "target": variant.info.target if variant else "",
            "implementation_used": extra["implementation_used"],
            **numbers,
            **case,
            **times,
            "repeats": stats["rounds"],
            "status": Status.OK,
        }
    )
