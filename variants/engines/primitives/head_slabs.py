"""Slabs: the heads that are processed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.device import on_gpu
from variants.engines.primitives.softmax_tile import Scratch

# Bytes of scores that are held at a time. On a CPU this is a few times the L2 cache, so that there
# are few calls; measured in docs/performance.md.
SCORES_CPU = 4 << 20
# On a GPU more scores need fewer launches, but memory must stay in proportion to the inputs.
SCORES_GPU = 512 << 20
SCORES_PER_INPUT = 4  # scores for each element of the query, on a GPU
SMALLEST_GPU = 4 << 20
LARGE_HEAD = 1 << 20  # bytes of a key head; from this size on, a call for each key head is faster


def budget(device: torch.device, dtype: torch.dtype, inputs: int) -> int:
    """Number of scores of `dtype` that are held at a time; `inputs` is the number of elements of
    the query, or of another input of that size."""
    if not on_gpu(device):
        return SCORES_CPU // dtype.itemsize
    size = max(SMALLEST_GPU // dtype.itemsize, SCORES_PER_INPUT * inputs)
    return min(SCORES_GPU // dtype.itemsize, size)


class Slab(NamedTuple):
    """Consecutive query heads, counted over the batch, and the key heads that they read: one key
    head for each query head, or one key head for all."""

    heads: slice
    kv_heads: slice

    def queries(self, tensor: Tensor) -> Tensor:
        """The query heads of (batch, heads, ...) as (slab, ...)."""
        return _some(tensor, self.heads)

    def keys(self, tensor: Tensor) -> Tensor:
        """The key heads of (batch, kv_heads, ...) as (slab, ...); a shared head is expanded."""
        tensor = _some(tensor, self.kv_heads)
        return tensor.expand(self.heads.stop - self.heads.start, *tensor.shape[1:])

    def working(self, tensor: Tensor, name: str, dtype: torch.dtype, scratch: Scratch) -> Tensor:
        """`keys` in contiguous rows of `dtype`, copied only if necessary."""
        tensor = _some(tensor, self.kv_heads)
        if tensor.dtype is not dtype or not tensor.is_contiguous():
            tensor = scratch.copy(name, tensor, dtype)
        return tensor.expand(self.heads.stop - self.heads.start, *tensor.shape[1:])

    @contextmanager
    def adding(self, total: Tensor) -> Iterator[Tensor]:
        """A tensor (slab, ...) for gradients, which is added to `total` (batch, kv_heads, ...)."""
        if not total.is_contiguous():
            raise ValueError("total must be contiguous, because its heads are used as views")
        own = _some(total, self.kv_heads)
        size = self.heads.stop - self.heads.start
        if len(own) == size:
            yield own
        else:
            shares = own.new_zeros(size, *own.shape[1:])
            yield shares
            own += shares.sum(0, keepdim=True)

    def sequences(self, tensor: Tensor | None, heads: int) -> Tensor | None:
        """The entry of each head's sequence: (batch, ...) as (slab, ...)."""
        if tensor is None:
            return None
        counted = torch.arange(self.heads.start, self.heads.stop, device=tensor.device)
        return tensor[counted.div(heads, rounding_mode="floor")]

    def own_heads(self, heads: int, device: torch.device) -> Tensor:
        """The number of each head within its sequence, int64 (slab,)."""
        return torch.arange(self.heads.start, self.heads.stop, device=device) % heads


def one_by_one(
    attend: Callable[[Tensor, Tensor, Tensor, slice], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
) -> Tensor:
    """Call `attend(query, key, value, heads)` for each key head and the query heads that read it,
    if key heads are large and on a CPU; otherwise once for all heads. This is for methods that
    first make larger keys: each head then uses the memory of the previous head again."""
    kv_heads = key.shape[1]
    group = query.shape[1] // kv_heads
    if on_gpu(query.device) or key[0, 0].nbytes < LARGE_HEAD:
        return attend(query, key, value, slice(0, query.shape[1]))
    parts = zip(query.split(group, 1), key.split(1, 1), value.split(1, 1), strict=True)
    owned = [slice(start, start + group) for start in range(0, query.shape[1], group)]
    found = (attend(*part, heads) for part, heads in zip(parts, owned, strict=True))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        return torch.cat(list(found), dim=1)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for part, heads in zip(found, owned, strict=True):
        out[:, heads] = part
    return out


def _some(tensor: Tensor, heads: slice) -> Tensor:
    """Heads of (batch, heads, ...), counted over the batch; a view if possible. For transposed
    inputs a view is possible only within one sequence."""
    batch, first = divmod(heads.start, tensor.shape[1])
    last = first + heads.stop - heads.start
    if last <= tensor.shape[1]:
        return tensor[batch, first:last]
    return tensor.flatten(0, 1)[heads]


def slabs(query: Tensor, key: Tensor, at_once: int, some: range | None = None) -> Iterator[Slab]:
    """Cut the heads of (batch, heads, ...) into slabs of at most `at_once` heads, or of one head if
    `at_once` is 0. A slab of grouped heads is part of one group. `some` selects consecutive heads
    of each sequence."""
    batch, heads = query.shape[:2]
    group = heads // key.shape[1]
    at_once = max(1, at_once)
    wanted = some or range(heads)
    # A slab may have heads of several sequences, unless heads are left out or share a key head.
    size = group if group > 1 else heads if some else batch * heads
    for begin in range(0, batch * heads, size):
        sequence = begin - begin % heads
        first, last = begin, begin + size
        if size <= heads:
            first = max(first, sequence + wanted.start)
            last = min(last, sequence + wanted.stop)
        for start in range(first, last, at_once):
            stop = min(start + at_once, last)
            own = slice(start, stop)
            yield Slab(own, own if group == 1 else slice(begin // group, begin // group + 1))
