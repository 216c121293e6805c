"""The columns of memory."""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema.column_types import Amount, Bytes
from bench.schema.columns import Record, column


@dataclass(frozen=True, kw_only=True)
class MemoryUse(Record):
    """Memory of a call, and of exact attention on the same inputs."""

    peak_memory_bytes: Bytes | None = column(
        "peak of the bytes that a call allocates, including its output but not its inputs", None
    )
    exact_peak_memory_bytes: Bytes | None = column(
        "smallest peak_memory_bytes of an exact implementation with at most twice the error of "
        "torch SDPA; not always that of exact_implementation",
        None,
    )
    memory_vs_exact: Amount | None = column("peak_memory_bytes / exact_peak_memory_bytes", None)
    state_bytes: Bytes | None = column(
        "for decode: bytes of the state between two steps, including space for later tokens",
        None,
        came_later=True,
    )
    process_peak_bytes: Bytes | None = column(
        "bytes by which the memory of the process grew during the call, including memory that "
        "libraries allocate without torch and excluding memory that is never written to; on a GPU, "
        "memory of the device in whole segments; empty where it cannot be measured",
        None,
        came_later=True,
    )
    saved_for_backward_bytes: Bytes | None = column(
        "for forward_backward: bytes that live between the forward and the backward pass, without "
        "inputs, parameters, output, and tensors that are kept between calls",
        None,
        came_later=True,
    )
    memory_note: str = column(
        "a difference between peak_memory_bytes and process_peak_bytes that needs words; empty if "
        "they agree",
        "",
        came_later=True,
    )
