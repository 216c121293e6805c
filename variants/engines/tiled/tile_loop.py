"""Softmax attention tile by tile: memory holds a few tiles at a time, forward and backward.

One loop is used for every layout of keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from variants.contract.call import Call
from variants.contract.definitions import compute_dtype
from variants.contract.modes import no_autocast, untraced
from variants.engines.primitives import head_slabs, softmax_tile
from variants.engines.primitives.head_slabs import Slab
from variants.engines.primitives.precision import Precision
from variants.engines.primitives.softmax_tile import HIDDEN
from variants.engines.tiled.layouts.all_keys import AllKeys
from variants.engines.tiled.layouts.layout import Layout
from variants.engines.tiled.relative_bias import TileBias


def full(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: Call,
    *,
    coarse: bool = False,
) -> Tensor:
    """Softmax attention over all keys, some rows at a time."""
    query_len, key_len = query.shape[2], key.shape[2]
    begin = max(0, query_len - key_len) if call.causal else 0
    layout = AllKeys(query_len, key_len, begin, query_len, causal=call.causal, device=query.device)
    return run(
        query,
        key,
        value,
        [layout],
        scale=call.scale,
        key_bias=hidden_keys(call.key_padding_mask, query.dtype),
        distance_bias=call.distance_bias,
        coarse=coarse,
    )


def hidden_keys(key_padding_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The padding mask as a bias on the scores of inputs of `dtype`."""
    if key_padding_mask is None:
        return None
    bias = torch.zeros_like(key_padding_mask, dtype=compute_dtype(dtype))
    return bias.masked_fill_(key_padding_mask, HIDDEN)


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layouts: Sequence[Layout],
    *,
    scale: float,
    key_bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
    coarse: bool = False,
) -> Tensor:
    """Softmax attention over the keys that `layouts` show. Each layout has its own query rows or
    heads.

    Args:
        query: (batch, heads, query_len, channels).
        key: (batch, kv_heads, key_len, channels); as many keys as the layouts expect. A key may
            represent something other than one token.
        value: (batch, kv_heads, key_len, head_dim).
        key_bias: (batch, key_len), added to the scores of a key; HIDDEN hides the key. Without
            gradient.
        distance_bias: (heads, query_len + key_len - 1), entry j - i + query_len - 1 is added to the
            score of row i and key j. With gradient.

    Returns:
        (batch, heads, query_len, head_dim) in the dtype of the query. Rows without layout are 0.
    """
    precision = Precision.of(query, coarse=coarse)
    if distance_bias is not None:
        spare = _spare(layouts)
        distance_bias = pad(distance_bias.to(compute_dtype(query.dtype)), (spare, spare))
    out: Tensor = untraced(_Tiles.apply)(
        query, key, value, key_bias, distance_bias, tuple(layouts), scale, precision
    )
    return out


def _spare(layouts: Sequence[Layout]) -> int:
    """Number of entries by which tiles may exceed a distance bias on each side."""
    return max(layout.keys for layout in layouts)


class _Portion(NamedTuple):
    """Some tiles of some heads, with their queries, keys and values."""

    layout: Layout
    steps: range
    slab: Slab
    tensors: tuple[Tensor, Tensor, Tensor]
    hide: softmax_tile.Hide
    distances: TileBias | None


def _portions(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None,
    distance_bias: Tensor | None,
    layouts: Sequence[Layout],
    scale: float,
    precision: Precision,
    scratch: softmax_tile.Scratch,
) -> Iterator[_Portion]:
    """All tiles in portions. The scores of a portion fit the budget."""
    room = head_slabs.budget(query.device, precision.scores, query.numel())
    of_query, _ = precision.scales(scale)
    zero = query.shape[2] - 1 + _spare(layouts)
    bias = None if distance_bias is None else distance_bias.to(precision.scores)
    for layout in layouts:
        size = layout.rows * layout.keys
        together = min(layout.tiles, layout.at_once)
        for slab in head_slabs.slabs(query, key, room // (together * size), layout.heads):
            queries = slab.queries(query)
            keys, values = (
                layout.whole_blocks(slab.working(x, name, precision.operands, scratch))
                for x, name in ((key, "all keys"), (value, "all values"))
            )
            count = max(1, min(together, room // (len(queries) * size)))
            own_key_bias = slab.sequences(key_bias, query.shape[1])
            distances = None
            if bias is not None:
                own_heads = slab.own_heads(query.shape[1], query.device)
                distances = TileBias(bias, own_heads, zero, scratch)
            for start in range(0, layout.tiles, count):
                steps = range(start, min(start + count, layout.tiles))
                rows = _rows(queries, layout, steps)
                yield _Portion(
                    layout,
                    steps,
                    slab,
                    (
                        scratch.copy("query", rows, precision.operands, of_query),
                        layout.gather(keys, steps, slab.heads, "key", scratch),
                        layout.gather(values, steps, slab.heads, "value", scratch),
                    ),
                    partial(_hide, layout, steps, slab, own_key_bias, distances),
                    distances,
                )


def _hide(
    layout: Layout,
    steps: range,
    slab: Slab,
    key_bias: Tensor | None,
    distances: TileBias | None,
    scores: Tensor,
) -> bool:
    """Hide scores as `softmax_tile.Hide` requires."""
    may_be_empty = layout.hide(scores, steps, slab.heads, key_bias)
    if distances is not None:
        distances.add(scores, layout.key_runs(steps, slab.heads, scores.device))
    return may_be_empty


def _rows(tensor: Tensor, layout: Layout, steps: range) -> Tensor:
    """The rows (slab, tiles, rows, ...) of some tiles; rows of padding are zeros."""
    start, stop = layout.span(steps)
    low, high = max(start, layout.first), min(stop, layout.last)
    rows = tensor[:, low:high]
    if low > start or high < stop:
        rows = pad(rows, (*(0, 0) * (tensor.ndim - 2), low - start, stop - high))
    return rows.unflatten(1, (len(steps), layout.rows))


def _put(out: Tensor, part: Tensor, layout: Layout, steps: range) -> None:
    """Write rows (slab, tiles, rows, ...) of some tiles to `out` (slab, query_len, ...)."""
    start, stop = layout.span(steps)
    low, high = max(start, layout.first), min(stop, layout.last)
    out[:, low:high] = part.flatten(1, 2)[:, low - start : high - start]


class _Tiles(torch.autograd.Function):
    """The rows of all layouts. Only the inputs and the output are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_bias: Tensor | None,
        distance_bias: Tensor | None,
        layouts: Sequence[Layout],
        scale: float,
        precision: Precision,
    ) -> Tensor:
        out = query.new_empty(*query.shape[:3], value.shape[-1])
        out[:, :, : min(layout.first for layout in layouts)] = 0
        inputs = query, key, value, key_bias, distance_bias
        scratch = softmax_tile.Scratch(query.device)
        _, of_scores = precision.scales(scale)
        with no_autocast(query.device):
            for portion in _portions(*inputs, layouts, scale, precision, scratch):
                part = softmax_tile.forward(
                    *portion.tensors, portion.hide, precision, scratch, scale=of_scores
                )
                _put(portion.slab.queries(out), part, portion.layout, portion.steps)
        ctx.save_for_backward(*inputs, out)
        ctx.settings = layouts, scale, precision
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, key_bias, distance_bias, out = ctx.saved_tensors
        layouts, scale, precision = ctx.settings
        wide = compute_dtype(query.dtype)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_query[:, :, : min(layout.first for layout in layouts)] = 0
        grad_key, grad_value = (x.new_zeros(x.shape, dtype=wide) for x in (key, value))
        wanted = distance_bias is not None and ctx.needs_input_grad[4]
        grad_bias = torch.zeros_like(distance_bias) if wanted else None
        inputs = query, key, value, key_bias, distance_bias
        scratch = softmax_tile.Scratch(query.device)
        of_query, of_scores = precision.scales(scale)
        with no_autocast(query.device):
            for portion in _portions(*inputs, layouts, scale, precision, scratch):
                layout, steps, slab = portion.layout, portion.steps, portion.slab
                grad_rows = _rows(slab.queries(grad_out), layout, steps)
                out_rows = _rows(slab.queries(out), layout, steps)
                delta = (grad_rows.to(wide) * out_rows).sum(-1).to(precision.scores)
                part, key_share, value_share, score_share = softmax_tile.backward(
                    *portion.tensors,
                    portion.hide,
                    precision,
                    scratch,
                    scratch.copy("grad out", grad_rows, precision.operands),
                    delta,
                    scale=of_scores,
                )
                _put(slab.queries(grad_query), part.mul_(of_query), layout, steps)
                for total, share in ((grad_key, key_share), (grad_value, value_share)):
                    with slab.adding(total) as own:
                        layout.scatter(share, own, steps, slab.heads)
                if grad_bias is not None and portion.distances is not None:
                    key_runs = layout.key_runs(steps, slab.heads, query.device)
                    portion.distances.add_gradient(score_share, key_runs, grad_bias)
        grad_key, grad_value = grad_key.to(key.dtype), grad_value.to(value.dtype)
        return grad_query, grad_key, grad_value, None, grad_bias, None, None, None
