"""Attention of each query to keys of its own: those that `selection.py` finds for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.definitions import compute_dtype
from variants.contract.modes import no_autocast
from variants.engines.primitives import head_slabs, softmax_tile
from variants.engines.primitives.head_slabs import Slab
from variants.engines.primitives.precision import Precision
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.selection import Head, Search, Selection, hide, lowest_kept, select

SPARSE = 64  # times the keys of a query that there must be for a list of them to pay


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    count: int,
    causal: bool,
    key_padding_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Softmax attention of each query to the `count` keys that it scores highest, and to those
    that score the same as the lowest of them; shapes as in `Attention.__call__`."""
    query_len, key_len = query.shape[2], key.shape[2]
    search = Search(count, causal, key_padding_mask, scale, query_len, key_len)
    selection = select(query, key, search) if count * SPARSE <= key_len else None
    out: Tensor = _Selected.apply(query, key, value, search, selection)
    return out


class _Rows(NamedTuple):
    """Consecutive rows of one head, each against keys of its own or together against all."""

    slab: Slab
    rows: slice
    left: Tensor | None  # bool (rows, 1): rows that are left to the other kind, if any
    query: Tensor  # (rows, 1, head_dim) or (1, rows, head_dim), scaled
    key: Tensor  # (rows or 1, keys, head_dim)
    value: Tensor
    places: Tensor | None  # of the keys, one row after the other, if each has its own
    hide: softmax_tile.Hide

    def take(self, tensor: Tensor) -> Tensor:
        """These rows of (batch, heads, query_len, head_dim), zeros in the place of those left."""
        found = self.slab.queries(tensor)[0, self.rows]
        found = found if self.left is None else found.masked_fill(self.left, 0)
        return found.reshape(self.query.shape)

    def put(self, result: Tensor, out: Tensor) -> None:
        """Write these rows, but those left, to (batch, heads, query_len, head_dim)."""
        target = self.slab.queries(out)[0, self.rows]
        result = result.view(target.shape).to(target.dtype)
        target.copy_(result if self.left is None else torch.where(self.left, target, result))

    def add(self, share: Tensor, total: Tensor) -> None:
        """Add gradients of the keys or values to (batch, kv_heads, key_len, head_dim)."""
        with self.slab.adding(total) as own:
            if self.places is None:
                own[:, : share.shape[1]] += share
            else:
                own[0].index_add_(0, self.places, share.flatten(0, 1).to(own.dtype))


def _parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    search: Search,
    selection: Selection | None,
    scratch: Scratch,
) -> Iterator[_Rows]:
    """All rows. Where keys tie their number is not known, and rows are set against all of them.
    Which rows are taken together depends on lengths alone, and so does how they are rounded."""
    precision = Precision.of(query)
    dtype, scale = precision.operands, search.scale
    room = head_slabs.budget(query.device, precision.scores)
    for slab in head_slabs.slabs(query, key, 1):
        queries = slab.queries(query)
        keys, values = (
            slab.working(x, name, dtype, scratch)
            for x, name in ((key, "all keys"), (value, "all values"))
        )
        if selection is not None:
            chosen, tied = slab.queries(selection.keys)[0], slab.queries(selection.tied)[0]
            for rows in search.pieces(room // (search.count * query.shape[3])):
                index = chosen[rows].clamp(min=0).flatten()
                yield _Rows(
                    slab,
                    rows,
                    tied[rows, None] if bool(tied[rows].any()) else None,
                    scratch.copy("query", queries[0, rows, None], dtype, scale),
                    _gathered(keys[0], index, search.count, "key", scratch),
                    _gathered(values[0], index, search.count, "value", scratch),
                    index,
                    partial(_hide_missing, chosen[rows], search),
                )
        head = Head(queries[0], slab.keys(key)[0], slab.heads.start // query.shape[1], search)
        for rows in search.tiles(room):
            left = None
            if selection is not None:
                if not bool(tied[rows].any()):
                    continue
                left = ~tied[rows, None]
            stop = search.stop(rows)
            yield _Rows(
                slab,
                rows,
                left,
                scratch.copy("query", queries[:, rows], dtype, scale),
                keys[:, :stop],
                values[:, :stop],
                None,
                partial(_hide_lower, head, rows, scratch),
            )


def _gathered(tensor: Tensor, index: Tensor, count: int, name: str, scratch: Scratch) -> Tensor:
    """Rows (len(index) / count, count, head_dim) of (key_len, head_dim), in a buffer."""
    found = scratch(name, (len(index) // count, count, tensor.shape[1]), tensor.dtype)
    torch.index_select(tensor, 0, index, out=found.view(-1, tensor.shape[1]))
    return found


def _hide_missing(chosen: Tensor, search: Search, scores: Tensor) -> bool:
    """As `softmax_tile.Hide`: what stands in the place of keys where a row has fewer."""
    if search.causal or search.padding is not None:
        scores.masked_fill_((chosen < 0)[:, None], HIDDEN)
    return search.may_be_empty


def _hide_lower(head: Head, rows: slice, scratch: Scratch, scores: Tensor) -> bool:
    """As `softmax_tile.Hide`: keys below the lowest that is kept, of the scores of one head."""
    search, found = head.search, scores[0]
    which = torch.arange(rows.start, rows.stop, device=scores.device)
    if scores.device.type == "cpu" and scores.dtype is torch.float32:
        hide(found, head, rows, HIDDEN)
        lowest, doubtful = lowest_kept(found, head, rows)
        below = scratch("below", found.shape, found.dtype)
        found.add_(torch.lt(found, lowest, out=below), alpha=HIDDEN)
        which = which[doubtful]
    if len(which):
        exact = head.scores(which, found.shape[1])
        lowest = exact.topk(min(search.count, exact.shape[1])).values[:, -1:]
        hidden = (exact < lowest) | (exact == -torch.inf)
        found[which - rows.start] = found[which - rows.start].masked_fill_(hidden, HIDDEN)
    return search.may_be_empty


class _Selected(torch.autograd.Function):
    """Nothing is kept but the inputs, the output and the selection."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        search: Search,
        selection: Selection | None,
    ) -> Tensor:
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        scratch = Scratch(query.device)
        precision = Precision.of(query)
        with no_autocast(query.device):
            for part in _parts(query, key, value, search, selection, scratch):
                tensors = part.query, part.key, part.value
                part.put(softmax_tile.forward(*tensors, part.hide, precision, scratch), out)
        # Tensors are left to torch, which frees them after a backward pass.
        ctx.save_for_backward(query, key, value, out, search.padding, *(selection or ()))
        ctx.search = dataclasses.replace(search, padding=None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, out, padding, *selected = ctx.saved_tensors
        search = dataclasses.replace(ctx.search, padding=padding)
        selection = Selection(*selected) if selected else None
        wide = compute_dtype(query.dtype)
        precision = Precision.of(query)
        scratch = Scratch(query.device)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (x.new_zeros(x.shape, dtype=wide) for x in (key, value))
        with no_autocast(query.device):
            for part in _parts(query, key, value, search, selection, scratch):
                grad_rows = part.take(grad_out)
                delta = (grad_rows.to(wide) * part.take(out)).sum(-1).to(precision.scores)
                row_grad, key_share, value_share, _ = softmax_tile.backward(
                    part.query,
                    part.key,
                    part.value,
                    part.hide,
                    precision,
                    scratch,
                    scratch.copy("grad out", grad_rows, precision.operands),
                    delta,
                )
                part.put(row_grad.mul_(search.scale), grad_query)
                part.add(key_share, grad_key)
                part.add(value_share, grad_value)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None
