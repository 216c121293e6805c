"""Keys and values that represent several tokens, by their mean and their number.

If the logarithm of the number is added to the score of a mean, softmax gives the mean the weight of
as many equal keys.
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
    size: Tensor  # (batch, groups), number of these tokens

    def bias(self) -> Tensor:
        """log(size), or HIDDEN if size is 0: (batch, groups)."""
        return torch.where(self.size > 0, self.size.clamp(min=1).log(), HIDDEN)


def tokens(key: Tensor, value: Tensor, key_padding_mask: Tensor | None) -> Pooled:
    """Groups of one token each; padded keys and values must be 0."""
    shape = key.shape[0], key.shape[2]
    dtype = compute_dtype(key.dtype)
    if key_padding_mask is None:
        return Pooled(key, value, key.new_ones(shape, dtype=dtype))
    return Pooled(key, value, (~key_padding_mask).to(dtype))


def joined(parts: Sequence[Pooled]) -> Pooled:
    """One list of all groups, in the order of the parts."""
    return Pooled(
        torch.cat([part.key for part in parts], dim=2),
        torch.cat([part.value for part in parts], dim=2),
        torch.cat([part.size for part in parts], dim=1),
    )


def pool(items: Pooled, size: int) -> Pooled:
    """Join groups of `size` neighbouring items; the last group may have fewer."""
    sizes = grouped(items.size, 1, size)
    total = sizes.sum(-1)
    share = (sizes / total.clamp(min=1)[..., None])[:, None, :, None]

    def means(tensor: Tensor) -> Tensor:
        if size == 2:
            # A batch of thousands of products with two terms is slow.
            first, second = grouped(tensor, 2, 2).unbind(3)
            return torch.lerp(first, second, share[..., 1].to(tensor.dtype))
        return (share.to(tensor.dtype) @ grouped(tensor, 2, size)).squeeze(3)

    return Pooled(means(items.key), means(items.value), total)


def grouped(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Cut a dimension into (groups, size); zeros fill the last group."""
    if missing := -tensor.shape[dim] % size:
        tensor = pad(tensor, (*(0, 0) * (tensor.ndim - 1 - dim), 0, missing))
    return tensor.unflatten(dim, (-1, size))
