"""Bencher Metric Format, for `bencher run --adapter json --file FILE`.

https://bencher.dev/docs/reference/bencher-metric-format
"""

from __future__ import annotations

from typing import Any

from bench.export.exported_run import ExportedRun
from bench.export.smaller_is_better import TIME, ExportedNumber, numbers_of
from bench.schema.case_names import benchmark_name

NANOSECONDS = 1e6  # in a millisecond
LATENCY = "latency"  # a measure that every project of Bencher has, in nanoseconds


def bencher(run: ExportedRun) -> dict[str, Any]:
    """The measures of each benchmark by slug; a slug is the name of a column with hyphens."""
    return {
        benchmark_name(row): {_slug(metric): _measure(metric) for metric in numbers_of(row)}
        for row, _ in run.timed
    }


def _slug(metric: ExportedNumber) -> str:
    return LATENCY if metric.column == TIME else metric.column.replace("_", "-")


def _measure(metric: ExportedNumber) -> dict[str, float]:
    factor = NANOSECONDS if metric.column == TIME else 1
    ends = {"value": metric.value, "lower_value": metric.low, "upper_value": metric.high}
    return {name: factor * number for name, number in ends.items() if number is not None}
