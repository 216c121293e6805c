"""The channels of captured heads in more or fewer heads of the same width together."""

from __future__ import annotations

from torch import Tensor


def joined(x: Tensor, heads: int) -> Tensor:
    """Fewer, wider heads: (batch, whole, tokens, head_dim) to (batch, heads, tokens, channels).

    Whole heads stand side by side, so that their dot products add up, as in a projection of that
    width.
    """
    return x.unflatten(1, (heads, -1)).transpose(2, 3).flatten(3)


def split(x: Tensor, heads: int, *, rotary: bool) -> Tensor:
    """More, narrower heads: (batch, whole, tokens, head_dim) to (batch, heads, tokens, channels).

    The channels of a head are dealt out to its parts in turn; with rotary positions those of both
    halves alike. So channel i is still paired with the one half a head further on, and each part
    has slow and fast pairs: the first has just the frequencies of a rotary head of its width.
    """
    parts = heads // x.shape[1]
    halves = x.unflatten(3, (2 if rotary else 1, -1, parts))  # (..., half, channel, part)
    return halves.permute(0, 1, 5, 2, 3, 4).flatten(4).flatten(1, 2)
