"""Runs a variant on `meta` tensors as if they were on a GPU, and returns the work of one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bench.launches.counting import GpuFunctions, OperationCount, TooManyLaunches
from bench.launches.estimate import device_seconds, host_seconds
from variants import Attention
from variants.contract import tensor_cache
from variants.contract.call import Keywords
from variants.contract.checks import check_call
from variants.contract.device import pretended_gpu

FORWARD, FORWARD_BACKWARD = "forward", "forward_backward"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The inputs of a call: (batch, heads, seq_len, head_dim)."""

    seq_len: int
    heads: int = 16
    kv_heads: int | None = None  # None: as many as heads
    head_dim: int = 64
    batch: int = 1
    dtype: str = "bfloat16"
    causal: bool = True

    def empty(self, device: str = "meta") -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value without data."""
        heads = self.heads, self.kv_heads or self.heads, self.kv_heads or self.heads
        query, key, value = (
            torch.empty(
                self.batch,
                count,
                self.seq_len,
                self.head_dim,
                dtype=getattr(torch, self.dtype),
                device=device,
            )
            for count in heads
        )
        return query, key, value


@dataclass(frozen=True, kw_only=True)
class CallWork:
    """The work of one call.

    launches: kernels. If there are more than the limit of the count, it is the limit, `cut` is
        True, and all other numbers are too small, except `seconds`: the time of the counted part
        is multiplied by the share of the products that the method needs.
    waits: for each kind and place, how often the host waits for the device.
    mixed: for each place, operations with tensors on two devices, which a GPU refuses.
    least_bytes: bytes of query, key, value and output; with a backward pass also of their
        gradients.
    peak_bytes: memory of the call without its inputs, with output and gradients.
    input_bytes, kept_bytes: memory of the inputs, and of the tensors that later calls use again.
    """

    source: str = "simulated"
    launches: int
    waits: Counter[str] = field(default_factory=Counter)
    mixed: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    moved_bytes: float
    least_bytes: int
    flops: float
    seconds: float
    peak_bytes: int
    input_bytes: int
    kept_bytes: int
    cut: bool = False

    @property
    def bytes_ratio(self) -> float:
        """Bytes moved, divided by the bytes that every method reads and writes."""
        return self.moved_bytes / self.least_bytes

    @property
    def memory_ratio(self) -> float:
        """Peak memory, divided by the bytes of query, key, value and output (and gradients)."""
        return self.peak_bytes / self.least_bytes


def simulate(
    attention: Attention,
    shape: Shape,
    direction: str = FORWARD,
    *,
    most_launches: int | None = None,
) -> CallWork:
    """The work of one call on a GPU, without one.

    Tensors that the variant keeps between calls are made before, and not counted.

    Args:
        most_launches: stop the count above this number of kernels.

    Raises:
        UnsupportedError: a call that the variant refuses.
        Exception: whatever a kernel raises that needs data.
    """
    count = OperationCount(most_launches)
    query, key, value = shape.empty()
    if attention.uses_shared_qk:
        key = query
    check_call(attention, query, key, value, Keywords(causal=shape.causal))
    backward = direction == FORWARD_BACKWARD
    leaves = tuple(x.requires_grad_(backward) for x in dict.fromkeys((query, key, value)))
    grad = torch.empty_like(query)
    count.give(*leaves, grad)
    with pretended_gpu("meta"), _keeping(count) as kept, GpuFunctions(count):
        cut = False
        try:
            with torch.set_grad_enabled(backward), count:
                call = attention.resolve(query, Keywords(causal=shape.causal))
                out = attention.run(query, key, value, call)
                if backward:
                    torch.autograd.grad(out, leaves, grad, allow_unused=True)
        except TooManyLaunches:
            cut = True
    inputs = sum(x.nbytes for x in leaves)
    least = (inputs + query.nbytes) * (2 if backward else 1)
    kept_bytes = sum(x.untyped_storage().nbytes() for x in kept())
    # The products inside fused kernels are not seen.
    useful = _useful_flops(attention, shape) * (3.5 if backward else 1)
    seconds = max(host_seconds(count.launches), count.device_seconds)
    if cut and count.flops:
        seconds *= max(1.0, useful / count.flops)
    unavoidable = device_seconds(0, useful, query.dtype)
    return CallWork(
        launches=most_launches if cut and most_launches else count.launches,
        waits=count.waits,
        mixed=count.mixed,
        kernels=count.kernels,
        moved_bytes=count.moved_bytes,
        least_bytes=least,
        flops=count.flops,
        seconds=max(seconds, unavoidable),
        peak_bytes=count.peak_bytes - kept_bytes,
        input_bytes=inputs,
        kept_bytes=kept_bytes,
        cut=cut,
    )


@cache
def _useful_flops(attention: Attention, shape: Shape) -> float:
    length = shape.seq_len
    counted = attention.useful_flops(
        shape.batch, shape.heads, length, length, shape.head_dim, causal=shape.causal
    )
    return counted or 0.0


@contextmanager
def _keeping(count: OperationCount) -> Iterator[Callable[[], list[Tensor]]]:
    """Keep the values of `cached` functions, which keep real tensors only, for this simulation."""
    values: dict[Any, Any] = {}
    real = tensor_cache.cached.__call__

    def kept(self: Any, *args: Any, **kwargs: Any) -> Any:
        key = (self.function, args, tuple(sorted(kwargs.items())))
        if key not in values:
            with count.paused(), torch.no_grad():
                values[key] = self.function(*args, **kwargs)
        return values[key]

    def tensors() -> list[Tensor]:
        found = tensor_cache._tensors(list(values.values()), set())
        return list({x.untyped_storage()._cdata: x for x in found if x.is_meta}.values())

    tensor_cache.cached.__call__ = kept  # type: ignore[method-assign]
    try:
        yield tensors
    finally:
        tensor_cache.cached.__call__ = real  # type: ignore[method-assign]
