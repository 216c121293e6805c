"""Softmax attention of one batch of tiles: a few query rows with all the keys that they see.

The backward pass computes the weights again instead of keeping them, as in FlashAttention.
Dao et al., FlashAttention, 2022, https://arxiv.org/abs/2205.14135
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from variants.engines.primitives.precision import Precision, product

HIDDEN = -1e30  # added to a hidden score; finite, so that a row that sees no key is not NaN
Hide = Callable[[Tensor], bool]
"""Adds `HIDDEN` to scores (..., rows, keys) in place; returns whether a row may see no key."""


class Scratch:
    """Buffers that are allocated once and used again. New buffers for every tile would cost more
    time than the arithmetic."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The buffer with this name; its content is undefined."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.dtype is not dtype or len(buffer) < size:
            buffer = torch.empty(size, dtype=dtype, device=self.device)
            self._buffers[name] = buffer
        return buffer[:size].view(*shape)

    def copy(self, name: str, tensor: Tensor, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        """A contiguous copy of `tensor` times `scale`."""
        buffer = self(name, tensor.shape, dtype)
        if tensor.dtype is dtype and scale != 1:
            return torch.mul(tensor, scale, out=buffer)
        buffer.copy_(tensor)
        return buffer if scale == 1 else buffer.mul_(scale)


def weights(
    query: Tensor,
    key: Tensor,
    hide: Hide,
    precision: Precision,
    scratch: Scratch,
    lse: Tensor | None = None,
    *,
    scale: float = 1.0,
    given: bool = False,
) -> Tensor:
    """Softmax weights (..., rows, keys) of `query` (..., rows, head_dim). `scale` multiplies the
    scores, besides the factor that `query` may have already (`Precision.scales`).

    Writes the log-sum-exp of each row to `lse` (..., rows); if `given`, reads it from `lse`. A row
    that sees no key has the weights 0 and the log-sum-exp -inf.
    """
    shape = (*query.shape[:-1], key.shape[-2])
    scores = scratch("scores", shape, precision.scores)
    product(query, key.transpose(-2, -1), precision, scores)
    if scale != 1:
        scores.mul_(scale)
    may_be_empty = hide(scores)
    if lse is not None and given:
        return scores.sub_(lse.to(scores.dtype)[..., None]).exp_()
    highest = nothing = None
    if may_be_empty or lse is not None:
        highest = scores.amax(-1)
    torch.softmax(scores, -1, out=scores)
    if highest is not None and may_be_empty:
        nothing = highest <= HIDDEN / 2
        scores.mul_(~nothing[..., None])
    if highest is not None and lse is not None:
        # The largest weight is exp(0) divided by the sum.
        torch.sub(highest.to(lse.dtype), scores.amax(-1).to(lse.dtype).log_(), out=lse)
        if nothing is not None:
            lse.masked_fill_(nothing, -torch.inf)
    return scores


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hide: Hide,
    precision: Precision,
    scratch: Scratch,
    lse: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """The output (..., rows, head_dim), in a buffer; `lse` and `scale` as in `weights`."""
    seen = weights(query, key, hide, precision, scratch, lse, scale=scale).to(precision.operands)
    shape = (*query.shape[:-1], value.shape[-1])
    return product(seen, value, precision, scratch("out", shape, precision.scores))


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hide: Hide,
    precision: Precision,
    scratch: Scratch,
    grad_out: Tensor,
    delta: Tensor,
    lse: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the given query, the keys, the values and the scores, in buffers.

    Args:
        scale: as in `weights`.
        grad_out: (..., rows, head_dim).
        delta: sum of out * grad_out of each row, (..., rows).
        lse: as in `weights`, over all tiles from which the result of a row is merged; inf for a row
            that sees no key. None if each row is in one tile.
    """
    seen = weights(query, key, hide, precision, scratch, lse, scale=scale, given=True)
    operands = precision.operands
    grad_value = scratch("grad value", value.shape, precision.scores)
    product(seen.to(operands).transpose(-2, -1), grad_out, precision, grad_value)
    grad_scores = scratch("grad scores", seen.shape, precision.scores)
    product(grad_out, value.transpose(-2, -1), precision, grad_scores)
    grad_scores.sub_(delta[..., None]).mul_(seen)
    changed = grad_scores.to(operands)
    grad_query = scratch("grad query", query.shape, precision.scores)
    product(changed, key, precision, grad_query)
    grad_key = scratch("grad key", key.shape, precision.scores)
    product(changed.transpose(-2, -1), query, precision, grad_key)
    if scale != 1:
        grad_query.mul_(scale)
        grad_key.mul_(scale)
    return grad_query, grad_key, grad_value, grad_scores
