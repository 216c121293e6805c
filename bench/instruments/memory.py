"""Measures the memory of one call: its peak, and the bytes that wait for a backward pass.

On a CPU, the events of torch's allocator are summed, which is exact to the byte and repeatable.
Memory that libraries allocate without torch is not counted there; the high-water mark of the
process has it, and a difference between the two is put in words. On a GPU, the counters of the
allocator are read.

Memory that exists before the call does not count: inputs, parameters, and tensors that are kept
between calls. So a call must have run before, and then its peak depends on the call alone.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile  # torch.profiler imports torch's compiler for seconds

from bench.instruments import c_memory, process_memory

# The profiler would write two lines to stderr at each start.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

SHARE = 0.1  # of a peak, by which two ways of measuring it may differ without a note
CUDA_BLOCK = 512  # torch rounds the size of blocks on a GPU up to a multiple of it


@dataclass(frozen=True)
class Peak:
    """The peak memory of one call.

    Attributes:
        bytes: bytes allocated through torch, including the output and, on a GPU, the workspaces of
            cuBLAS, but not the inputs.
        process_bytes: bytes by which the memory of the process grew during the call, including
            memory that libraries allocate without torch; on a GPU, memory of the device in whole
            segments. None where it cannot be measured.
        note: a difference between the two that needs words, or why there is only one; or empty.
    """

    bytes: int
    process_bytes: int | None
    note: str = ""


def peak(call: Callable[[], object], device: torch.device) -> Peak:
    """Run `call` two or three times and return its peak. It must have run before.

    On a GPU, the workspaces of cuBLAS are freed first, so that the call allocates its own again. A
    CUDA graph that was recorded before must not be replayed afterwards: it may write to them.
    """
    if device.type == "cuda":
        return _peak_on_gpu(call, device)
    with _no_collection():
        process_bytes = process_memory.growth(call)
    found = peak_bytes(call, device)
    if process_bytes is None:
        return Peak(found, None, "not cross-checked: the process's peak cannot be reset here")
    return Peak(found, process_bytes, _difference(call, found, process_bytes))


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Run `call` once and return the peak of the bytes that it allocates through torch."""
    if device.type == "cuda":
        return _peak_on_gpu(call, device).bytes
    return peak_of(_allocations(call)[0])


def saved_bytes(forward: Callable[[], Tensor], device: torch.device) -> int:
    """Run a forward pass once, and return the bytes that live between it and a backward pass.

    Those of its inputs and of its output do not count. `forward` must have run before, and must
    return an output that requires a gradient.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        with torch.enable_grad(), _no_collection():
            out = forward()
        torch.cuda.synchronize(device)
        grown = torch.cuda.memory_allocated(device) - before
        return max(0, grown - -(-_nbytes(out) // CUDA_BLOCK) * CUDA_BLOCK)
    with torch.enable_grad():
        events, out = _allocations(forward)
    live, _ = _live_and_peak(events)
    own = live.get(out.untyped_storage().data_ptr(), 0)
    return sum(live.values()) - min(own, _nbytes(out))


def peak_of(events: Iterable[tuple[int, int, int]]) -> int:
    """The largest sum of live bytes over (time, pointer, signed size) events, starting at zero.

    Frees of blocks that were allocated before the first event are ignored.
    """
    return _live_and_peak(events)[1]


def _live_and_peak(events: Iterable[tuple[int, int, int]]) -> tuple[dict[int, int], int]:
    live: dict[int, int] = {}
    total = peak = 0
    for _, pointer, size in sorted(events, key=lambda event: event[0]):
        if size > 0:
            # A block at this address was freed without an event.
            total += size - live.get(pointer, 0)
            live[pointer] = size
            peak = max(peak, total)
        else:
            total -= live.pop(pointer, 0)
    return live, peak


def _difference(call: Callable[[], object], found: int, process_bytes: int) -> str:
    """The sentence on a difference between the allocator's peak and the process's, or empty."""
    tolerance = max(int(SHARE * found), process_memory.uncertainty())
    if process_bytes > found + tolerance:
        return (
            f"the process grew by {_mb(process_bytes)}, and torch allocated {_mb(found)}: "
            "the rest was allocated without torch"
        )
    if found <= process_bytes + tolerance:
        return ""
    seen = f"torch allocated {_mb(found)}, and the process grew by {_mb(process_bytes)}"
    if not c_memory.is_glibc():
        return f"{seen}: unwritten or reused memory, which this allocator does not tell apart"
    # Memory that is never written does not count for the process: fill it, to tell this apart.
    with _no_collection():
        filled = process_memory.growth(call, fill=True) or 0
    if found <= filled + tolerance:
        return f"{seen}: the rest is never written to"
    return f"{seen}: contradiction, it grew by {_mb(filled)} when all new memory was written to"


def _peak_on_gpu(call: Callable[[], object], device: torch.device) -> Peak:
    torch.cuda.synchronize(device)
    # The first product allocates a workspace that stays. Without this, it would count or not
    # count by the calls that ran before.
    torch._C._cuda_clearCublasWorkspaces()
    with _no_collection():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before, used, reserved = _counters(device), _used(device), _reserved(device)
        call()
        torch.cuda.synchronize(device)
    after = _counters(device)
    most_reserved = torch.cuda.max_memory_reserved(device) - reserved
    found = after["peak"] - before["current"]
    outside = (_used(device) - used) - (_reserved(device) - reserved)
    if outside < 0:
        return Peak(found, None, "another process freed memory of the device during the call")
    note = ""
    if outside > process_memory.SLACK:
        note = (
            f"the used memory of the device grew by {_mb(outside)} outside torch's allocator: "
            "by a library or by another process"
        )
    return Peak(found, most_reserved + outside, note)


def _counters(device: torch.device) -> dict[str, int]:
    """The bytes that callers asked for. The bytes of whole blocks would depend on the free blocks
    that earlier calls left; only they are known for other allocators than torch's own."""
    stats = torch.cuda.memory_stats(device)
    kind = "requested_bytes" if stats.get("requested_bytes.all.peak") else "allocated_bytes"
    return {name: stats.get(f"{kind}.all.{name}", 0) for name in ("current", "peak")}


def _used(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device)


def _allocations(call: Callable[[], Any]) -> tuple[list[tuple[int, int, int]], Any]:
    """Run `call` and return the events of torch's CPU allocator, and the result of the call."""
    with _no_collection(), profile(use_kineto=True, profile_memory=True) as seen:
        result = call()
    return list(_events(seen)), result


def _events(seen: profile) -> Iterator[tuple[int, int, int]]:
    # The event tree is not a public interface of torch; a test with a known peak checks it.
    assert seen.kineto_results is not None
    stack: list[Any] = list(seen.kineto_results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag.name == "Allocation" and "cpu" in str(event.extra_fields.device):
            fields = event.extra_fields
            yield event.start_time_ns, fields.ptr, fields.alloc_size


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage now and not inside: the moment of a collection depends on earlier calls."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
