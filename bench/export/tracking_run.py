"""Exports a run that `make track` has stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.export.exported_run import ExportedRun
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.schema.tracking_file import TrackedCase, read_tracking_file
from bench.schema.validation import FileError, name_of


def read_tracking(path: Path) -> ExportedRun:
    """Read a stored run of `make track`. FileError as in `read_tracking_file`, and if a number
    does not fit its column."""
    source, file = name_of(path), read_tracking_file(path)
    rows = []
    for number, benchmark in enumerate(file.benchmarks):
        try:
            rows.append(_row(benchmark))
        except ValueError as error:
            raise FileError(f"{source}: benchmarks[{number}]: {error}") from None
    machine = file.machine_info.facts
    commit = file.commit_info.id if file.commit_info.is_known else None
    environment = {
        "started_utc": file.datetime,
        **machine,
        "software": {"commit": commit, **machine["software"]},
    }
    samples = [[1e3 * seconds for seconds in each.stats.data] for each in file.benchmarks]
    return ExportedRun(source, rows, environment, samples)


def _row(benchmark: TrackedCase) -> dict[str, Any]:
    """The columns of results.csv; ValueError as in `Measurement.check`."""
    from variants import REGISTRY  # imports torch, which runs in a folder do not need

    extra, stats = benchmark.extra_info, benchmark.stats
    case = Measurement.case_type.completed(benchmark.case)
    variant = REGISTRY.get(case["variant"])
    return Measurement.completed(
        {
            "target": variant.info.target if variant else "",
            "implementation_used": benchmark.implementation_used,
            **{name: extra[name] for name in Measurement.numbers() if name in extra},
            **case,
            "time_ms_min": 1e3 * stats.min,
            "time_ms_q1": 1e3 * stats.q1,
            "time_ms_median": 1e3 * stats.median,
            "time_ms_q3": 1e3 * stats.q3,
            "repeats": stats.rounds,
            "status": Status.OK,
        }
    )
