"""Softmax attention of a few queries, as in a decoding step: each key is read once for all query
heads that share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from variants.contract.device import on_gpu
from variants.engines.primitives.precision import Precision
from variants.engines.primitives.row_slices import row_slices
from variants.engines.primitives.softmax_tile import HIDDEN

FEW = 16  # most rows for which this function is faster
WIDENED = 1 << 20  # elements of half-type keys or values that are converted at a time

Tokens = tuple[Tensor, Tensor]
"""Keys and values (batch, kv_heads, tokens, head_dim)."""


def attend(
    query: Tensor,
    parts: Sequence[Tokens],
    bias: Tensor | None,
    *,
    scale: float,
    fused: bool = False,
) -> Tensor:
    """Attend to all tokens of all `parts`.

    Args:
        query: (batch, heads, rows, head_dim).
        bias: (batch or 1, heads or 1, rows or 1, all tokens), added to the scores; HIDDEN hides.
        fused: use torch's kernel for one part without bias, as always on CUDA.

    Returns:
        (batch, heads, rows, head_dim) in the dtype of the query. A row that sees no key is 0.
    """
    batch, heads, rows, head_dim = query.shape
    kv_heads = parts[0][0].shape[1]
    if (fused or on_gpu(query.device)) and bias is None and len(parts) == 1:
        grouped = heads != kv_heads
        return scaled_dot_product_attention(query, *parts[0], scale=scale, enable_gqa=grouped)
    precision = Precision.of(query)
    of_query, of_scores = precision.scales(scale)
    asked = (query.to(precision.scores) * of_query).to(precision.operands)
    asked = asked.reshape(batch * kv_heads, -1, head_dim)
    scores = torch.cat(
        [
            _product(asked, key.mT, precision)
            for keys, _ in parts
            for key in _working(keys, precision)
        ],
        dim=-1,
    )
    if of_scores != 1:
        scores.mul_(of_scores)
    if bias is not None:
        by_head = scores.view(batch, heads, rows, -1)
        by_head += bias.to(scores.dtype)
    highest = None if bias is None else scores.amax(-1, keepdim=True)
    weights = torch.softmax(scores, dim=-1)
    if highest is not None:
        weights = weights.masked_fill_(highest <= HIDDEN / 2, 0)
    weights = weights.to(precision.operands)
    out = weights.new_zeros(batch * kv_heads, weights.shape[1], head_dim, dtype=scores.dtype)
    start = 0
    for _, values in parts:
        for value in _working(values, precision):
            own = weights[:, :, start : start + value.shape[1]]
            out += _product(own, value, precision)
            start += value.shape[1]
    return out.view(batch, heads, rows, head_dim).to(query.dtype)


def bias_of(
    query: Tensor, hidden: Tensor | None, distance_bias: Tensor | None, keys: Tensor
) -> Tensor | None:
    """The `bias` argument of `attend`; None if there is no bias.

    Args:
        query: (batch, heads, rows, head_dim), of the last tokens.
        hidden: bool (batch or 1, 1, rows or 1, keys), True = hidden.
        distance_bias: (heads, rows + all tokens - 1), as in `Attention.__call__`.
        keys: int64 (keys,), positions; the last key has the position of the last query.
    """
    rows = query.shape[2]
    bias: Tensor | None = None
    if distance_bias is not None:
        row = torch.arange(rows, device=keys.device)[:, None]
        bias = distance_bias[:, keys - row + rows - 1].to(Precision.of(query).scores)
    if hidden is not None:
        if bias is None:
            bias = torch.zeros(hidden.shape, dtype=Precision.of(query).scores, device=keys.device)
        bias = bias.masked_fill(hidden, HIDDEN)
    return bias


def later(rows: int, keys: int, padding: Tensor | None, device: torch.device) -> Tensor | None:
    """Bool (batch or 1, 1, rows or 1, keys), True for padding (batch, keys) and for keys later than
    each of the last `rows` tokens; None if no key is hidden."""
    hidden = None if padding is None else padding[:, None, None]
    if rows == 1:
        return hidden
    behind = torch.ones(rows, keys, dtype=torch.bool, device=device).triu_(keys - rows + 1)
    return behind[None, None] if hidden is None else hidden | behind


def _working(tokens: Tensor, precision: Precision) -> Iterator[Tensor]:
    """Keys or values (batch * kv_heads, tokens, head_dim) in the dtype of operands, in parts that
    fit the cache after they are converted."""
    count = tokens.shape[2]
    step = max(1, count)
    if tokens.dtype is not precision.operands:
        step = max(1, WIDENED // max(1, tokens.numel() // step))
    for part in row_slices(0, count, step):
        yield tokens[:, :, part].to(precision.operands).flatten(0, 1)


def _product(left: Tensor, right: Tensor, precision: Precision) -> Tensor:
    if precision.operands is precision.scores:
        return torch.bmm(left, right)
    return torch.bmm(left, right, precision.scores)
