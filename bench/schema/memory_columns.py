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
        "peak_memory_bytes of exact_implementation", None
    )
    memory_vs_exact: Amount | None = column("peak_memory_bytes / exact_peak_memory_bytes", None)
    state_bytes: Bytes | None = column(
        "for decode: bytes of the state between two steps, including space for later tokens",
        None,
        came_later=True,
    )
    process_peak_bytes: Bytes | None = column(
        "growth of the memory of the process during a call, at its peak: with memory that "
        "libraries allocate without torch, in whole pages; empty where the system does not tell",
        None,
        came_later=True,
    )
    saved_for_backward_bytes: Bytes | None = column(
        "for forward_backward: bytes that the forward pass keeps for the backward pass, beyond "
        "inputs and output",
        None,
        came_later=True,
    )
    memory_note: str = column(
        "how the two measurements of memory disagree; empty if they agree", "", came_later=True
    )
