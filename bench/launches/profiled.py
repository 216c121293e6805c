"""Measures the kernels, waits, time and memory of one call on a GPU."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.instruments import memory
from bench.launches.counting import PACKAGE
from bench.launches.simulation import FORWARD, FORWARD_BACKWARD, CallWork, Shape, simulate
from variants import Attention

SYNCHRONISED = "called a synchronizing CUDA operation"
CALLS = 5  # timed calls


def measure(attention: Attention, shape: Shape, direction: str = FORWARD) -> CallWork:
    """The work of one call on random inputs. Bytes moved are those of the simulation, because a
    profiler does not see them."""
    device = torch.device("cuda")
    query, key, value = (torch.randn_like(x) for x in shape.empty("cuda"))
    if attention.uses_shared_qk:
        key = query
    backward = direction == FORWARD_BACKWARD
    leaves = tuple(x.requires_grad_(backward) for x in dict.fromkeys((query, key, value)))
    grad = torch.ones_like(query)

    def call() -> Tensor:
        with torch.set_grad_enabled(backward):
            out = attention(query, key, value, causal=shape.causal)
        if backward:
            torch.autograd.grad(out, leaves, grad, allow_unused=True)
        return out.detach()

    attention.prepare(query, key, causal=shape.causal)
    for _ in range(3):  # kernels are compiled and chosen, tensors are kept
        call()
    expected = simulate(attention, shape, direction)
    kernels = kernels_of(call)
    return replace(
        expected,
        source="measured",
        launches=kernels.total(),
        kernels=kernels,
        waits=waits_of(call),
        seconds=_seconds(call),
        peak_bytes=memory.peak_bytes(call, device),
    )


def kernels_of(call: Callable[[], object]) -> Counter[str]:
    """The kernels of a call by name; copies between host and device are not kernels."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    found: Counter[str] = Counter()
    for event in seen.events() or ():
        if event.device_type.name == "CUDA" and not is_annotation(event) and is_kernel(event.name):
            found[event.name] += 1
    return found


def is_annotation(event: object) -> bool:
    """Whether an event of the device is the span of a named part of a program, not a kernel."""
    return bool(getattr(event, "is_user_annotation", False))


def is_kernel(name: str) -> bool:
    """Whether an event of the device is started like a kernel."""
    return not name.startswith(("Memcpy HtoD", "Memcpy DtoH", "Context", "Activity", "gpu_user"))


def waits_of(call: Callable[[], object]) -> Counter[str]:
    """The places where a call waits for the device, as torch warns of them."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen, _warned():
        warnings.simplefilter("always")
        call()
    return Counter(
        f"{_place(warning.filename)}:{warning.lineno}"
        for warning in seen
        # torch also warns that this mode is a prototype.
        if SYNCHRONISED in str(warning.message)
    )


@contextmanager
def _warned() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _place(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(PACKAGE)) if PACKAGE in path.parents else path.name


def _seconds(call: Callable[[], object]) -> float:
    """Median time between two events on the stream. The host may be slower than the device."""
    times = []
    for _ in range(CALLS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(times)
