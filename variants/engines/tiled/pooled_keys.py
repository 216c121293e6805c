"""Keys and values that stand for several tokens: their mean, and how many they are.

Softmax with the logarithm of the count added to a mean's score weighs it as that many equal keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.definitions import compute_dtype
from variants.engines.primitives.softmax_tile import HIDDEN


class Pooled(NamedTuple):
    """Groups of consecutive tokens, in order."""

    key: Tensor  # (batch, kv_heads, groups, head_dim), means over the tokens that are not padding
    value: Tensor
    size: Tensor  # (batch, groups), how many these are

    def bias(self) -> Tensor:
        """log(size), HIDDEN where there is none: (batch, groups)."""
        return torch.where(self.size > 0, self.size.clamp(min=1).log(), HIDDEN)


def tokens(key: Tensor, value: Tensor, key_padding_mask: Tensor | None) -> Pooled:
    """Every token a group of its own; what is padded must be 0."""
    shape = key.shape[0], key.shape[2]
    dtype = compute_dtype(key.dtype)
    if key_padding_mask is None:
        return Pooled(key, value, key.new_ones(shape, dtype=dtype))
    return Pooled(key, value, (~key_padding_mask).to(dtype))


def joined(parts: Sequence[Pooled]) -> Pooled:
    """One list of all groups, those of the first part first."""
    return Pooled(
        torch.cat([part.key for part in parts], dim=2),
        torch.cat([part.value for part in parts], dim=2),
        torch.cat([part.size for part in parts], dim=1),
    )


def pool(items: Pooled, size: int) -> Pooled:
    """Groups of `size` neighbouring items, the last one perhaps of fewer."""
    sizes = grouped(items.size, 1, size)
    total = sizes.sum(-1)
    share = (sizes / total.clamp(min=1)[..., None])[:, None, :, None]

    def means(tensor: Tensor) -> Tensor:
        if size == 2:
            # Thousands of products of two numbers are slow.
            first, second = grouped(tensor, 2, 2).unbind(3)
            return torch.lerp(first, second, share[..., 1].to(tensor.dtype))
        return (share.to(tensor.dtype) @ grouped(tensor, 2, size)).squeeze(3)

    return Pooled(means(items.key), means(items.value), total)


def grouped(tensor: Tensor, dim: int, size: int) -> Tensor:
    """A dimension cut into (groups, size), zeros where the last group has fewer."""
    if missing := -tensor.shape[dim] % size:
        tensor = pad(tensor, (*(0, 0) * (tensor.ndim - 1 - dim), 0, missing))
    return tensor.unflatten(dim, (-1, size))
