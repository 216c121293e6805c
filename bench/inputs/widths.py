"""The channels of captured heads in more or fewer heads of the same width together."""

from __future__ import annotations

from torch import Tensor


def joined(x: Tensor, heads: int) -> Tensor:
    """Fewer, wider heads: (batch, whole, tokens, head_dim) to (batch, heads, tokens, channels).

    Whole heads stand side by side, so that their dot products add up, as in a projection of that
    width.
    """
    return x.unflatten(1, (heads, -1)).transpose(2, 3).flatten(3)


def split(x: Tensor, heads: int) -> Tensor:
    """More, narrower heads: (batch, whole, tokens, head_dim) to (batch, heads, tokens, channels).

    The channels of a head are dealt out to its parts in turn. Where rotary positions pair channel i
    with the one half a head further on, they still do if the parts have an even width; and each
    part has slow and fast pairs, the first just the frequencies of a rotary head of its width.
    """
    parts = heads // x.shape[1]
    return x.unflatten(3, (-1, parts)).movedim(4, 2).flatten(1, 2)
