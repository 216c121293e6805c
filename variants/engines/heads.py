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
    """Consecutive query heads, counted over the batch, and the key head that each reads."""

    heads: slice
    kv_heads: slice | Tensor

    def queries(self, tensor: Tensor) -> Tensor:
        """Those of (batch, heads, ...) as (slab, ...), a view where the layout allows."""
        return tensor.flatten(0, 1)[self.heads]

    def keys(self, tensor: Tensor, name: str, dtype: torch.dtype, scratch: Scratch) -> Tensor:
        """Those of (batch, kv_heads, ...) as (slab, ...) of `dtype`, copied only if need be."""
        tensor = tensor.flatten(0, 1)[self.kv_heads]
        return tensor if tensor.dtype is dtype else scratch.copy(name, tensor, dtype)

    @contextmanager
    def adding(self, total: Tensor) -> Iterator[Tensor]:
        """A tensor (slab, ...) for gradients, which go onto `total` (batch, kv_heads, ...)."""
        total = total.flatten(0, 1)
        if isinstance(self.kv_heads, slice):
            yield total[self.kv_heads]
        else:
            own = total.new_zeros(len(self.kv_heads), *total.shape[1:])
            yield own
            total.index_add_(0, self.kv_heads, own)

    def padding(self, mask: Tensor | None, heads: int) -> Tensor | None:
        """The padding mask (slab, key_len) of these heads."""
        if mask is None:
            return None
        return mask[torch.arange(self.heads.start, self.heads.stop, device=mask.device) // heads]


def slabs(query: Tensor, key: Tensor, at_once: int) -> Iterator[Slab]:
    """Cut the heads of (batch, heads, ...) into slabs of `at_once`, one if it is 0."""
    batch, heads = query.shape[:2]
    group = heads // key.shape[1]
    at_once = max(1, at_once)
    for start in range(0, batch * heads, at_once):
        stop = min(start + at_once, batch * heads)
        first, last = start // group, (stop - 1) // group
        if group == 1 or first == last == stop - start - 1 + first:
            yield Slab(slice(start, stop), slice(first, last + 1))
        else:
            yield Slab(slice(start, stop), torch.arange(start, stop, device=query.device) // group)
