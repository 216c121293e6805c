"""Records for the benchmark database of PyTorch, schema v3: one for each number of each case.

https://github.com/pytorch/pytorch/wiki/PyTorch-OSS-benchmark-infra
https://github.com/pytorch/test-infra/blob/main/clickhouse_db_schema/oss_ci_benchmark_v3/schema.sql
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.export.exported_run import ExportedRun, Values
from bench.export.smaller_is_better import TIME, ExportedNumber, numbers_of
from bench.schema.case import Case
from bench.schema.case_names import benchmark_name
from bench.schema.columns import ATTENTION
from bench.schema.machine_kind import machine_of

SUITE = "attention-benchmark"
MICROSECONDS = 1e3  # in a millisecond
GIB = 2**30
REPOSITORIES = {"torch": "pytorch/pytorch"}


def pytorch_v3(run: ExportedRun) -> list[dict[str, Any]]:
    """The records. The upload adds the repository, the commit and the job."""
    return [
        record
        for row, samples in run.timed
        for record in _records(row, samples, machine_of(run.environment, row["host"]))
    ]


def _records(
    row: Values, samples: Sequence[float], machine: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    common = {
        "benchmark": {
            "name": SUITE,
            "mode": "training" if row["direction"] == "forward_backward" else "inference",
            "dtype": row["dtype"],
            "extra_info": _texts({name: row[name] for name in Case.columns()}),
        },
        "model": {
            # The dashboards tell series apart by this name, not by the shape.
            "name": benchmark_name(row),
            "type": "attention",
            "backend": row["implementation_used"] or row["implementation"],
            "extra_info": _texts({name: row[name] for name in ATTENTION}),
        },
        "inputs": _inputs(row),
        "dependencies": _dependencies(machine),
        "runners": [_runner(row, machine)],
    }
    for metric in numbers_of(row):
        yield {**common, "metric": _metric(row, metric, samples)}


def _metric(row: Values, metric: ExportedNumber, samples: Sequence[float]) -> dict[str, Any]:
    ends = {"low": metric.low, "high": metric.high}
    if metric.column != TIME:
        extra = _texts({"unit": metric.unit, **ends})
        return {"name": metric.column, "benchmark_values": [metric.value], "extra_info": extra}
    # The dashboards round to two decimals, which would leave little of a short time in ms.
    named = {"median": metric.value, "q1": metric.low, "q3": metric.high}
    times = {name: _microseconds(ms) for name, ms in named.items() if ms is not None}
    exact = row["exact_ms_median"]
    more = {
        "unit": "us",
        "calls": row["repeats"],
        "exact_attention": None if exact is None else _microseconds(exact),
        "disturbed": row["disturbed"] or None,
    }
    return {
        "name": "latency_us",
        "benchmark_values": [_microseconds(ms) for ms in samples or [metric.value]],
        "extra_info": _texts({**times, **more}),
    }


def _microseconds(milliseconds: float) -> float:
    return MICROSECONDS * milliseconds


def _inputs(row: Values) -> dict[str, Any]:
    """The shapes of query, key and value."""
    shapes = {
        name: f"{row['batch']}x{row[heads]}x{row[length]}x{row['head_dim']}"
        for name, heads, length in (
            ("query", "heads", "seq_len"),
            ("key", "kv_heads", "key_len"),
            ("value", "kv_heads", "key_len"),
        )
    }
    return {
        name: {"dtype": row["dtype"], "extra_info": {"shape": shape}}
        for name, shape in shapes.items()
    }


def _dependencies(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The versions of the packages, and the commit of this suite."""
    software = {name: text for name, text in machine.get("software", {}).items() if text}
    commit = software.pop("commit", None)
    found = {
        name: {"repo": REPOSITORIES.get(name, ""), "version": version}
        for name, version in software.items()
    }
    return found | ({SUITE: {"repo": "", "sha": commit}} if commit else {})


def _runner(row: Values, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The machine. A number that is not known is absent."""
    hardware = machine.get("hardware", {})
    gpu = hardware.get("gpu") if row["device"] == "cuda" else None
    memory = {
        "avail_mem_in_gb": hardware.get("memory_bytes"),
        "avail_gpu_mem_in_gb": hardware.get("gpu_memory_bytes") if gpu else None,
    }
    known = {
        "name": row["device"],
        "type": gpu or hardware.get("processor"),
        "cpu_info": hardware.get("processor"),
        "cpu_count": hardware.get("cores"),
        "gpu_info": gpu,
        "gpu_count": 1 if gpu else None,
        **{name: None if count is None else count // GIB for name, count in memory.items()},
        "extra_info": _texts({"threads": hardware.get("threads"), "host": row["host"] or None}),
    }
    return {name: value for name, value in known.items() if value is not None}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """The database keeps texts only; a value that is not there is left out."""
    return {name: str(value) for name, value in values.items() if value is not None}
