"""Which heads are processed together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from variants.engines.tile import Scratch

# Bytes of scores held at once: on a CPU a few times its second cache, so that the calls between
# which they travel stay few; measured in docs/performance.md.
SCORES_CPU = 4 << 20
SCORES_GPU = 512 << 20


def budget(device: torch.device, dtype: torch.dtype) -> int:
    """Scores of `dtype` that are held at once."""
    return (SCORES_GPU if device.type == "cuda" else SCORES_CPU) // dtype.itemsize


class Slab(NamedTuple):
    """Consecutive query heads, counted over the batch, and the key heads that they read: as many,
    or one that they share."""

    heads: slice
    kv_heads: slice

    def queries(self, tensor: Tensor) -> Tensor:
        """Those of (batch, heads, ...) as (slab, ...)."""
        return _some(tensor, self.heads)

    def keys(self, tensor: Tensor) -> Tensor:
        """Those of (batch, kv_heads, ...) as (slab, ...); a shared one is expanded."""
        tensor = _some(tensor, self.kv_heads)
        return tensor.expand(self.heads.stop - self.heads.start, *tensor.shape[1:])

    def working(self, tensor: Tensor, name: str, dtype: torch.dtype, scratch: Scratch) -> Tensor:
        """`keys` in rows of `dtype` that lie together, copied only if need be."""
        tensor = _some(tensor, self.kv_heads)
        if tensor.dtype is not dtype or not tensor.is_contiguous():
            tensor = scratch.copy(name, tensor, dtype)
        return tensor.expand(self.heads.stop - self.heads.start, *tensor.shape[1:])

    @contextmanager
    def adding(self, total: Tensor) -> Iterator[Tensor]:
        """A tensor (slab, ...) for gradients, which go onto `total` (batch, kv_heads, ...)."""
        own = _some(total, self.kv_heads)
        size = self.heads.stop - self.heads.start
        if len(own) == size:
            yield own
        else:
            shares = own.new_zeros(size, *own.shape[1:])
            yield shares
            own += shares.sum(0, keepdim=True)

    def which(self, heads: int, device: torch.device) -> Tensor:
        """Which of a sequence's `heads` these are (slab,)."""
        return torch.arange(self.heads.start, self.heads.stop, device=device) % heads

    def padding(self, mask: Tensor | None, heads: int) -> Tensor | None:
        """The padding mask (slab, key_len) of these heads."""
        if mask is None:
            return None
        return mask[torch.arange(self.heads.start, self.heads.stop, device=mask.device) // heads]


def _some(tensor: Tensor, heads: slice) -> Tensor:
    """Heads of (batch, heads, ...), counted over the batch; a view wherever one can be had, which
    for inputs that are transposed is within one sequence only."""
    batch, first = divmod(heads.start, tensor.shape[1])
    last = first + heads.stop - heads.start
    if last <= tensor.shape[1]:
        return tensor[batch, first:last]
    return tensor.flatten(0, 1)[heads]


def slabs(query: Tensor, key: Tensor, at_once: int) -> Iterator[Slab]:
    """Cut the heads of (batch, heads, ...) into slabs of `at_once`, one if it is 0; grouped heads
    into parts of a group."""
    batch, heads = query.shape[:2]
    group = heads // key.shape[1]
    at_once = max(1, at_once)
    size = batch * heads if group == 1 else group
    for begin in range(0, batch * heads, size):
        for start in range(begin, begin + size, at_once):
            stop = min(start + at_once, begin + size)
            own = slice(start, stop)
            yield Slab(own, own if group == 1 else slice(begin // group, begin // group + 1))
