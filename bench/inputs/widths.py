"""Joins or splits captured heads into fewer or more heads with the same total width."""

from __future__ import annotations

from torch import Tensor


def joined(x: Tensor, heads: int) -> Tensor:
    """Fewer, wider heads: (batch, whole, tokens, head_dim) to (batch, heads, tokens, channels).

    The channels of whole heads are concatenated, so their dot products add up.
    """
    return x.unflatten(1, (heads, -1)).transpose(2, 3).flatten(3)


def split(x: Tensor, heads: int) -> Tensor:
    """More, narrower heads: (batch, whole, tokens, head_dim) to (batch, heads, tokens, channels).

    Part p of `parts` gets the channels p, p + parts, p + 2 * parts, ... of its head. Rotary
    positions pair channel i with the channel half a head further on; these pairs stay together if
    the parts have an even width. Each part has slow and fast pairs, and the first part has exactly
    the frequencies of a rotary head of its width.
    """
    parts = heads // x.shape[1]
    return x.unflatten(3, (-1, parts)).movedim(4, 2).flatten(1, 2)
