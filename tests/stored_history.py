"""Stored runs of `make track` for tests, in the shape that pytest-benchmark writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pytest_benchmark.stats import Stats

from bench.schema.machine_kind import fingerprint
from bench.schema.tracking_file import SCHEMA

FIRST = datetime(2026, 9, 1, 12, tzinfo=UTC)
HARDWARE: Mapping[str, Any] = {
    "system": "Linux x86_64",
    "processor": "Example 9000",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 8 << 30,
    "gpu": None,
    "gpu_memory_bytes": None,
}
SOFTWARE = {"python": "3.11.7", "torch": "2.13.0", "triton": None, "cuda": None}
SPREAD = (0.99, 1.0, 1.02, 0.98, 1.01)  # the rounds of a run, in parts of their median


def machine_of(**hardware: Any) -> dict[str, Any]:
    """The machine of a file, with other facts about its hardware."""
    facts = {"hardware": {**HARDWARE, **hardware}, "software": SOFTWARE, "settings": {}}
    return {"schema": SCHEMA, "fingerprint": fingerprint(facts), **facts}


MACHINE: Mapping[str, Any] = machine_of()


@dataclass(frozen=True)
class Call:
    """A benchmark of a file: its time in milliseconds, and the numbers of `extra_info`."""

    variant: str = "sliding_window"
    seq_len: int = 4096
    direction: str = "forward"
    ms: float = 10.0
    numbers: Mapping[str, float] = field(
        default_factory=lambda: {
            "peak_memory_bytes": 1 << 20,
            "approx_error_rel_l2": 0.25,
            "impl_error_rel_l2": 3e-7,
            "useful_flops": 1 << 30,
            "exact_ms_median": 40.0,
            "speedup_vs_exact": 4.0,
        }
    )


def case_of(call: Call) -> dict[str, Any]:
    """All columns of a case."""
    return {
        "variant": call.variant,
        "implementation": "auto",
        "hyperparameters": "",
        "inputs": "random",
        "layer": None,
        "device": "cpu",
        "dtype": "float32",
        "batch": 1,
        "heads": 4,
        "kv_heads": 4,
        "seq_len": call.seq_len,
        "key_len": call.seq_len,
        "head_dim": 64,
        "causal": True,
        "direction": call.direction,
        "seed": 0,
        "projections": "none",
        "launch": "eager",
    }


def benchmark(call: Call) -> dict[str, Any]:
    name = f"test_time_of_a_call[{call.variant}-{call.direction}-{call.seq_len}]"
    stats = Stats()
    for part in SPREAD:
        stats.update(call.ms / 1e3 * part)
    return {
        "group": f"{call.direction} n={call.seq_len}",
        "name": name,
        "fullname": f"tests/tracking/test_tracking.py::{name}",
        "params": {"name": call.variant},
        "param": call.variant,
        "extra_info": {
            "case": case_of(call),
            "implementation_used": "tiled",
            **call.numbers,
        },
        "options": {"disable_gc": False, "timer": "perf_counter", "min_rounds": 5},
        "stats": {**stats.as_dict(), "data": stats.data, "iterations": 1},
    }


def stored(
    calls: Iterable[Call],
    commit: int,
    *,
    later: float = 0,
    dirty: bool = False,
    machine: Mapping[str, Any] = MACHINE,
) -> dict[str, Any]:
    """The content of a file: the commit with this number, measured `later` hours after it."""
    time = FIRST + timedelta(days=commit)
    return {
        "machine_info": dict(machine),
        "commit_info": {
            "id": f"{commit:07x}".ljust(40, "e"),
            "time": time.isoformat(),
            "author_time": time.isoformat(),
            "dirty": dirty,
            "project": "attention-benchmark",
            "branch": "main",
        },
        "benchmarks": [benchmark(call) for call in calls],
        "datetime": (time + timedelta(hours=1 + later)).isoformat(),
        "version": "5.3.1",
    }


def save(folder: Path, content: Mapping[str, Any], number: int) -> Path:
    """Write a file where pytest-benchmark stores it, and return its path."""
    machine = content["machine_info"].get("fingerprint", "none")
    place = folder / f"example-{machine}" / "Linux-CPython-3.11-64bit"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{number:04}_{content['commit_info']['id']}_20260901_120000.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def save_commits(
    folder: Path, commits: int, calls: Callable[[int], Sequence[Call]], **options: Any
) -> list[Path]:
    """A file for each commit with the calls of that commit."""
    return [
        save(folder, stored(calls(commit), commit, **options), commit + 1)
        for commit in range(commits)
    ]
