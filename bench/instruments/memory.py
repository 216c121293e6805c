"""Measures the peak memory of one call: bytes allocated during the call, including the output.

On a CPU, the events of torch's allocator are summed, which is exact to the byte and repeatable.
Memory that libraries allocate without torch is not counted. On a GPU, the peak counter of the
allocator is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Run `call` once and return its peak. Run it before once, so that cached buffers exist."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        result = call()
    del result
    return peak_of(_allocations(seen))


def peak_of(events: Iterable[tuple[int, int, int]]) -> int:
    """The largest sum of live bytes over (time, pointer, signed size) events, starting at zero.

    Frees of blocks that were allocated before the first event are ignored.
    """
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
    return peak


def _allocations(seen: profile) -> Iterator[tuple[int, int, int]]:
    # The event tree is not a public interface of torch; a test with a known peak checks it.
    assert seen.profiler is not None
    assert seen.profiler.kineto_results is not None
    stack: list[Any] = list(seen.profiler.kineto_results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag.name == "Allocation" and "cpu" in str(event.extra_fields.device):
            fields = event.extra_fields
            yield event.start_time_ns, fields.ptr, fields.alloc_size
