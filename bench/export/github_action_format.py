"""The file that github-action-benchmark reads with `tool: customSmallerIsBetter`.

https://github.com/benchmark-action/github-action-benchmark
"""

from __future__ import annotations

from typing import Any

from bench.export.exported_run import ExportedRun, Values
from bench.export.smaller_is_better import TIME, ExportedNumber, numbers_of
from bench.schema.case_names import benchmark_name

WORDS = {
    TIME: "time",
    "peak_memory_bytes": "peak memory",
    "saved_for_backward_bytes": "saved for backward",
    "state_bytes": "state",
    "approx_error_rel_l2": "error",
    "impl_error_rel_l2": "rounding error",
}


def github_action(run: ExportedRun) -> list[dict[str, Any]]:
    """One entry for each number of each case."""
    return [_entry(row, metric) for row, _ in run.timed for metric in numbers_of(row)]


def _entry(row: Values, metric: ExportedNumber) -> dict[str, Any]:
    entry = {
        "name": f"{benchmark_name(row)}: {WORDS[metric.column]}",
        "unit": metric.unit,
        "value": metric.value,
        "extra": _tooltip(row, metric),
    }
    if metric.low is not None and metric.high is not None:
        entry["range"] = f"± {(metric.high - metric.low) / 2:.6g}"
    return entry


def _tooltip(row: Values, metric: ExportedNumber) -> str:
    lines = [f"implementation: {row['implementation_used']}"]
    if metric.column == TIME:
        lines.append(f"median of {row['repeats']} calls")
        if row["disturbed"]:
            lines.append(f"disturbed: {row['disturbed']}")
    if metric.low is not None and metric.high is not None:
        ends = "quartiles" if metric.column == TIME else "95 % interval"
        lines.append(f"{ends}: {metric.low:.6g} to {metric.high:.6g}")
    return "\n".join(lines)
