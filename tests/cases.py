"""Cases for the tests of `bench`, and functions that a worker process runs in these tests.

A worker process imports this module by name. The functions here make the process crash, hang or run
out of memory.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.inputs.captured import KEYS
from bench.instruments import environment
from bench.schema.case import Case
from bench.schema.columns import ATTENTION
from bench.schema.measurement import HeadRow, Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.attention import current_shape, measure_case
from bench.workloads.attention.given_inputs import Settings

# Seeds at which the worker process is killed or hangs, and a length that exceeds any memory.
KILLED, HANGS = 10, 30
TOO_LONG = 10**11  # tokens; no machine has the memory


def case(**changes: Any) -> Case:
    """A small case; `key_len` and `kv_heads` follow `seq_len` and `heads` unless given.

    Its attention is given as `attention`, or as the texts of the three columns. Hyperparameters
    that are not named have their defaults.
    """
    asked: dict[str, Any] = {
        "variant": "sliding_window",
        "implementation": "auto",
        "hyperparameters": "" if "variant" in changes else "window_size=8",
        "inputs": "gaussian",
        "device": "cpu",
        "dtype": "float32",
        "batch": 1,
        "heads": 2,
        "seq_len": 32,
        "head_dim": 16,
        "causal": False,
        "direction": "forward",
        "seed": 0,
    } | changes
    asked = {"key_len": asked["seq_len"], "kv_heads": asked["heads"]} | asked
    if "attention" in changes:
        return Case(**{name: value for name, value in asked.items() if name not in ATTENTION})
    return Case.of_values(asked)


@dataclass(frozen=True)
class NamedAttention:
    """Stands for an attention in rows that are not measured: it has the texts of three columns."""

    name: str
    implementation: str
    hyperparameters: str

    @property
    def info(self) -> NamedAttention:
        """The object that has the name of the variant."""
        return self


def with_named_attention(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a case of these columns; its variant need not exist."""
    own = {name: value for name, value in columns.items() if name not in ATTENTION}
    return own | {"attention": NamedAttention(*(columns[name] for name in ATTENTION))}


def named_case(**columns: Any) -> Case:
    """A case of these columns; its variant need not exist."""
    return Case(**with_named_attention(columns))


def changed(row: Measurement, **columns: Any) -> Measurement:
    """A copy of a row with other values in columns of its case or of its results."""
    of_case = {name: columns.pop(name) for name in Case.columns() if name in columns}
    return replace(row, case=named_case(**row.case.values | of_case), **columns)


def good(asked: Case, **seen: Any) -> Measurement:
    """A row with status ok and a time of one millisecond, except for the numbers in `seen`."""
    numbers = {"time_ms_q1": 1.0, "time_ms_median": 1.0, "time_ms_q3": 1.0}
    return Measurement.of(asked, Status.OK, **(numbers | seen))


def settings(**changes: Any) -> Settings:
    """One millisecond of sampling, and no machine limits."""
    return Settings(**{"files": {}, "matmul_tflops": {}, "seconds": 0.001} | changes)


@contextmanager
def fresh_worker() -> Iterator[None]:
    """Measure in this process, with empty caches."""
    current_shape.forget()
    yield
    current_shape.forget()


def capture_file(
    path: Path, *, scale: float = 0.5, positions: str = "something"
) -> dict[str, Tensor]:
    """Write a capture of layers 3 and 15: four query heads, two key/value heads, 24 tokens,
    head_dim 8. Returns its tensors."""
    generator = torch.Generator().manual_seed(7)
    tensors = {
        f"layer_{layer}.{role}": torch.randn(count, 24, 8, generator=generator).half()
        for layer in (3, 15)
        for role, count in (("query", 4), ("key", 2), ("value", 2))
    }
    metadata = dict.fromkeys(KEYS, "something") | {
        "format": "attention-capture-1",
        "layers": "[3, 15]",
        "query_heads": "[0, 1, 2, 3]",
        "kv_heads": "[0, 1]",
        "tokens": "24",
        "scale": repr(scale),
        "position_encoding": positions,
    }
    save_file(tensors, path, metadata)
    return tensors


# The first line of a journal of a sweep, as keywords of `Journal.header`.
ENVIRONMENT: dict[str, Any] = {
    "schema": 1,
    "started_utc": "2026-11-20T21:00:00+00:00",
    "host": "host-1",
    "software": {"python": "3.11.7", "torch": "2.13.0", "cuda": None},
    "hardware": {"processor": "Some CPU", "cores": 2, "threads": 2, "memory_bytes": 2**34},
    "settings": {"OMP_NUM_THREADS": "1"},
    "limits": {"matmul_tflops": {"float32": 0.5}, "read_gb_per_s": 10.0},
}
HEADER: dict[str, Any] = {
    "environment": {**ENVIRONMENT, "sweep": {"name": "axes", "groups": [{"seq_len": [32]}]}},
    "device": "cpu",
    "files": {},
}


def texts(content: Any) -> Iterator[str]:
    """All strings of a JSON document, names included."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield name
            yield from texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from texts(value)
    elif isinstance(content, str):
        yield content


HEAD = HeadRow(
    batch_index=0,
    head=3,
    approx_error_rel_l2=0.25,
    approx_error_low=0.2,
    approx_error_high=0.3,
    mass_recall=None,
    effective_keys=12.5,
    sink_mass=0.5,
    near_mass=0.25,
    top64_mass=0.1 + 0.2,
    logit_spread=1.5,
)


# Functions that a test passes to a worker process.


def instant(asked: Case, given: Settings, exact: bool = True) -> tuple[Measurement, Raw]:
    """Return a good row without measuring."""
    return good(asked), Raw([1.0])


def no_exact(asked: Case, given: Settings) -> None:
    """Measure no baselines."""


def limits(device: str, dtypes: list[str], seconds: float) -> dict[str, object]:
    """Return limits so high that no row exceeds them, without measuring."""
    return {"matmul_tflops": dict.fromkeys(dtypes, 1e6), "copy_gb_per_s": 1e6, "read_gb_per_s": 1e6}


def misfortune(asked: Case, given: Settings, exact: bool = True) -> tuple[Measurement, Raw]:
    """Kill the process, hang, or allocate too much, as the seed and length of the case say.
    Otherwise return a row that records the process id and whether exact attention was measured."""
    if asked.seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if asked.seed == HANGS:
        time.sleep(600)
    if asked.seq_len >= TOO_LONG:
        return measure_case.measure(asked, given)
    known = "known" if exact else "unknown"
    row = good(asked, inputs_detail=f"process {os.getpid()}", exact_implementation=known)
    return row, Raw([1.0])


def unfortunate_exact(asked: Case, given: Settings) -> None:
    """Baselines that hang at five heads and kill the process at seven heads."""
    if asked.heads == 5:
        time.sleep(600)
    if asked.heads == 7:
        os.kill(os.getpid(), signal.SIGKILL)


def address_space() -> tuple[int, int, int | None]:
    """Soft and hard limit of the address space of this process, and the free memory, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    return soft, hard, environment.memory_bytes("MemAvailable")


def allocate(size: int) -> int:
    """Allocate address space; no page of it is written."""
    return torch.empty(size, dtype=torch.uint8).numel()


def shout(text: str) -> None:
    """Write to standard output from Python, and to standard error directly by file descriptor."""
    print(text, flush=True)
    os.write(2, text.encode())


def end(status: int) -> None:
    os._exit(status)


def fail() -> None:
    raise LookupError("there is none")
