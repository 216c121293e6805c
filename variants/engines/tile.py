"""Softmax attention of one batch of tiles, forward and backward, in the style of FlashAttention.

A tile is a few query rows against one or more pieces of keys. Tiles of the same rows can be merged
afterwards, as each returns the logarithm of its normaliser. Sums are kept in float32 at least.
Dao et al., FlashAttention, 2022, https://arxiv.org/abs/2205.14135
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.dense import compute_dtype


class Piece(NamedTuple):
    """Keys (..., keys, head_dim), values of the same shape, bias (..., rows or 1, keys) or None."""

    key: Tensor
    value: Tensor
    bias: Tensor | None


def working(tensor: Tensor) -> Tensor:
    """The tensor as matrix products want it.

    A CPU multiplies float32 without losing the half types' scores; a GPU multiplies half types and
    sums in float32 by itself.
    """
    return tensor if tensor.device.type == "cuda" else tensor.to(compute_dtype(tensor.dtype))


def product(left: Tensor, right: Tensor) -> Tensor:
    """Batched matrix product with a float32 result for half inputs."""
    if right.dtype == compute_dtype(right.dtype):
        return left.to(right.dtype) @ right
    batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (
        x.expand(*batch, *x.shape[-2:]).flatten(0, -3) for x in (left.to(right.dtype), right)
    )
    return torch.bmm(left, right, torch.float32).unflatten(0, batch)


def _scores(query: Tensor, piece: Piece) -> Tensor:
    scores = product(query, piece.key.transpose(-2, -1))
    return scores if piece.bias is None else scores.add_(piece.bias)


def forward(query: Tensor, pieces: list[Piece]) -> tuple[Tensor, Tensor]:
    """Attend; `query` (..., rows, head_dim) is already scaled.

    Returns:
        out (..., rows, head_dim) and log-sum-exp (..., rows); a row that sees nothing has 0 and
        -inf.
    """
    scores = [_scores(query, piece) for piece in pieces]
    highest = torch.stack([s.amax(-1) for s in scores]).amax(0)
    shift = highest.masked_fill(highest == -torch.inf, 0)[..., None]
    total: Tensor | float = 0.0
    out: Tensor | float = 0.0
    for score, piece in zip(scores, pieces, strict=True):
        score.sub_(shift).exp_()
        total = total + score.sum(-1, keepdim=True)
        out = out + product(score, piece.value)
    assert isinstance(total, Tensor)
    assert isinstance(out, Tensor)
    out = out / total.masked_fill(total == 0, 1)
    return out, (shift + total.log())[..., 0]


def backward(
    query: Tensor, pieces: list[Piece], lse: Tensor, grad_out: Tensor, delta: Tensor
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Gradients of the scaled query and of each piece's (key, value).

    Args:
        lse: the final log-sum-exp of each row (..., rows), over all tiles it is merged from.
        grad_out: (..., rows, head_dim).
        delta: sum of out * grad_out of each row, (..., rows).
    """
    lse = lse.masked_fill(lse == -torch.inf, torch.inf)[..., None]
    grad_query: Tensor | float = 0.0
    grads = []
    for piece in pieces:
        weights = _scores(query, piece).sub_(lse).exp_()
        grad_value = product(weights.transpose(-2, -1), grad_out)
        grad_scores = product(grad_out, piece.value.transpose(-2, -1))
        grad_scores.sub_(delta[..., None]).mul_(weights)
        grad_query = grad_query + product(grad_scores, piece.key)
        grads.append((product(grad_scores.transpose(-2, -1), query), grad_value))
    assert isinstance(grad_query, Tensor)
    return grad_query, grads


def merge(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Combine two results for the same rows, as if their keys had been seen together."""
    both = torch.logaddexp(lse, new_lse)
    base = both.masked_fill(both == -torch.inf, 0)
    first, second = (lse - base).exp()[..., None], (new_lse - base).exp()[..., None]
    return out * first + new_out * second, both


def _flat(tensor: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """(slab·len, ...) and indices into it: copying whole rows of a matrix is many times faster
    than gathering single elements of a batch."""
    slab, length = tensor.shape[:2]
    if slab > 1:
        offsets = torch.arange(slab, device=index.device) * length
        index = index + offsets.view(-1, *(1,) * (index.ndim - 1))
    return tensor.flatten(0, 1), index.flatten()


def take(tensor: Tensor, index: Tensor) -> Tensor:
    """Items `index` (slab, ...) of `tensor` (slab, len, ...), each from its own slab."""
    rows, places = _flat(tensor, index)
    return rows.index_select(0, places).unflatten(0, index.shape)


def put(total: Tensor, index: Tensor, items: Tensor) -> None:
    """Write `items` to places `index` of `total`, the inverse of `take`."""
    rows, places = _flat(total, index)
    rows.index_copy_(0, places, items.flatten(0, index.ndim - 1))


def add(total: Tensor, index: Tensor, items: Tensor) -> None:
    """Add `items` onto places `index` of `total`."""
    rows, places = _flat(total, index)
    rows.index_add_(0, places, items.flatten(0, index.ndim - 1))


def head_slabs(
    batch: int, heads: int, kv_heads: int, device: torch.device
) -> list[tuple[slice, slice]]:
    """Slices of (batch·heads) and (batch·kv_heads) that are processed together.

    A CPU takes one head at a time, so that a tile stays in its cache and a head's keys are read
    through views; a GPU takes whole batches, and only grouped heads one at a time.
    """
    group = heads // kv_heads
    if device.type == "cuda" and group == 1:
        return [(slice(0, batch * heads), slice(0, batch * heads))]
    return [
        (slice(head, head + 1), slice(head // group, head // group + 1))
        for head in range(batch * heads)
    ]
