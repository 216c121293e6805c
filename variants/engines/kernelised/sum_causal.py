"""Kernelised attention over earlier keys: a running sum of feature(key) ⊗ value.

Katharopoulos et al., Transformers are RNNs, 2020, https://arxiv.org/abs/2006.16236
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.definitions import compute_dtype
from variants.contract.device import on_gpu
from variants.contract.modes import no_autocast
from variants.engines.kernelised.feature_map import (
    Features,
    Rows,
    divide,
    room,
    slabs,
)
from variants.engines.primitives.precision import Precision, product
from variants.engines.primitives.row_slices import row_slices
from variants.engines.primitives.softmax_tile import HIDDEN

CHUNK = 64  # rows of a causal chunk; all pairs of query and key within a chunk are scored
CHUNKS = 8  # most chunks that are processed together: their states are added one after the other


class Causal(torch.autograd.Function):
    """Attention over earlier keys: each chunk adds its keys to a state. With exponential features,
    the state is divided by exp(scale), and the scale is the highest exponent up to its last key.
    So a row does not depend on later keys, not even by rounding."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        features: Features,
        precision: Precision,
    ) -> Tensor:
        wide = compute_dtype(query.dtype)
        batch, num_heads, query_len, _ = query.shape
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        # Queries before the first key see no key.
        out[:, :, : max(0, query_len - key.shape[2])] = 0
        totals = query.new_ones(batch * num_heads, query_len, 1, dtype=wide)
        scales = query.new_zeros(batch * num_heads, key.shape[2], dtype=wide)
        with no_autocast(query.device):
            for rows in slabs(query, key, value, padding, features, precision, CHUNK):
                target = rows.slab.queries(out)
                total, scale = totals[rows.slab.heads], scales[rows.slab.heads]
                for chunks in _ascending(rows, scale):
                    if chunks.queries is not None:
                        total[:, chunks.queries] = divide(
                            chunks.sums().flatten(1, 2), target[:, chunks.queries]
                        )
        ctx.save_for_backward(query, key, value, out, totals, scales, padding)
        ctx.settings = features, precision
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, out, totals, scales, padding = ctx.saved_tensors
        features, precision = ctx.settings
        wide = compute_dtype(query.dtype)
        scales = scales.clone()  # they are written again, and a graph may be used twice
        grad_query = torch.zeros_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (x.new_zeros(x.shape, dtype=wide) for x in (key, value))
        with no_autocast(query.device):
            for rows in slabs(query, key, value, padding, features, precision, CHUNK):
                slab = rows.slab
                own_out, own_grad = slab.queries(out), slab.queries(grad_out)
                total, scale = totals[slab.heads], scales[slab.heads]
                own_query = slab.queries(grad_query)
                for chunks in _ascending(rows, scale):
                    if chunks.queries is None:
                        continue
                    sums = rows.grad_sums(
                        *(x[:, chunks.queries] for x in (own_out, own_grad, total))
                    )
                    grad = chunks.query_grad(sums.view(*chunks.made.shape[:3], -1))
                    own_query[:, chunks.queries] = features.query_grad(
                        rows.query[:, chunks.queries],
                        chunks.made.flatten(1, 2),
                        grad.flatten(1, 2),
                        slab,
                    )
                with slab.adding(grad_key) as own_key, slab.adding(grad_value) as own_value:
                    later = _Later(rows, scale)
                    for keys, queries, size in reversed(_pieces(rows)):
                        given: Tensor | None = None
                        if queries is not None:
                            given = rows.grad_sums(
                                *(x[:, queries] for x in (own_out, own_grad, total))
                            )
                        made, grad, grad_values = later.take(keys, queries, size, given)
                        own_key[:, keys] += features.key_grad(rows.key[:, keys], made, grad, slab)
                        own_value[:, keys] += grad_values
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None


def _pieces(rows: Rows) -> list[tuple[slice, slice | None, int]]:
    """Keys, the queries at the same positions, and the number of rows of their chunks. The keys
    before the first query are the first pieces; they have no queries."""
    query_len, key_len = rows.query.shape[1], rows.key.shape[1]
    before, without = max(0, key_len - query_len), max(0, query_len - key_len)
    # The states of the chunks need as much memory as the features.
    features = room(rows.query, rows.features, rows.precision) // 2
    together = features // (len(rows.query) * rows.features.num_features) // CHUNK
    step = CHUNK * min(max(1, together), CHUNKS)
    whole = before + (key_len - before) // CHUNK * CHUNK
    pieces: list[tuple[slice, slice | None, int]] = [
        (keys, None, keys.stop - keys.start) for keys in row_slices(0, before, step)
    ]
    for keys in (*row_slices(before, whole, step), *row_slices(whole, key_len, CHUNK)):
        queries = slice(keys.start - before + without, keys.stop - before + without)
        pieces.append((keys, queries, min(CHUNK, keys.stop - keys.start)))
    return pieces


class _Chunks(NamedTuple):
    """Consecutive chunks of a forward pass: features of their keys and queries (slab, chunks, rows,
    num_features), and the state before each chunk."""

    rows: Rows
    queries: slice | None
    made: Tensor  # features of the queries
    keys: Tensor  # features of the keys, each on the scale of its own position
    values: Tensor
    state: Tensor  # (slab, chunks, num_features, head_dim + 1)
    within: Tensor | None  # factors (slab, chunks, rows, keys) from a key's scale to a row's scale
    past: Tensor | None  # factors (slab, chunks, rows, 1) from the state's scale to a row's scale

    def sums(self) -> Tensor:
        """Weighted sums of values and of ones."""
        precision, scratch = self.rows.precision, self.rows.scratch
        weights = _earlier(self.rows, self.made, self.keys, self.within)
        shape = (*self.made.shape[:3], self.values.shape[-1])
        sums = scratch("sums", shape, precision.scores)
        product(weights, self.values, precision, sums)
        return sums.add_(self._with_state(self.made, self.state))

    def query_grad(self, grad_sums: Tensor) -> Tensor:
        """Gradient of the features of the queries, or of their logarithms."""
        precision, scratch = self.rows.precision, self.rows.scratch
        weights = _earlier(self.rows, grad_sums, self.values, self.within)
        grad = scratch("grad features", self.made.shape, precision.scores)
        product(weights, self.keys, precision, grad)
        grad.add_(self._with_state(grad_sums, self.state.transpose(-2, -1)))
        return grad.mul_(self.made) if self.rows.features.exponential else grad

    def _with_state(self, left: Tensor, state: Tensor) -> Tensor:
        precision = self.rows.precision
        if self.past is not None:
            left = (left * self.past).to(precision.operands)
        shape = (*left.shape[:3], state.shape[-1])
        buffer = self.rows.scratch("from state", shape, precision.scores)
        return product(left, state.to(precision.operands), precision, buffer)


def _earlier(rows: Rows, left: Tensor, right: Tensor, within: Tensor | None) -> Tensor:
    """Products of each row with the keys of its chunk up to its own position (slab, chunks, rows,
    keys), in a buffer."""
    precision = rows.precision
    weights = rows.scratch("scores", (*left.shape[:3], right.shape[2]), precision.scores)
    product(left, right.transpose(-2, -1), precision, weights)
    if within is not None:
        weights.mul_(within)
    return weights.tril_().to(precision.operands)


def _asked(rows: Rows, queries: slice, size: int) -> Tensor:
    """Features of some queries, chunk by chunk, up to a factor for each row, which cancels."""
    made = rows.queries(queries).unflatten(1, (-1, size))
    return torch.softmax(made, -1, out=made) if rows.features.exponential else made


def _within(scale: Tensor) -> Tensor:
    """Factors (..., rows, keys) from scales (..., rows); those above the diagonal are not used."""
    return (scale[..., None, :] - scale[..., :, None]).exp_()


def _ascending(rows: Rows, scales: Tensor) -> Iterator[_Chunks]:
    """Chunks from first to last, with the state before each; writes `scales` (slab, key_len)."""
    features, precision, scratch = rows.features, rows.precision, rows.scratch
    wide = scales.dtype
    shape = (len(rows.query), features.num_features, rows.query.shape[-1] + 1)
    state = torch.zeros(shape, dtype=wide, device=scales.device)
    carried = scales.new_full(shape[:1], HIDDEN)
    for part, queries, size in _pieces(rows):
        made = rows.keys(part).unflatten(1, (-1, size))
        values = rows.values(part).unflatten(1, (-1, size))
        within: Tensor | None = None
        past: Tensor | None = None
        to_last: Tensor | None = None
        decay: Tensor | None = None
        if features.exponential:
            highest = torch.maximum(made.amax(-1).to(wide).flatten(1), carried[:, None])
            scales[:, part] = highest.cummax(-1).values
            scale = scales[:, part].unflatten(1, (-1, size))
            last = scale[..., -1]
            first = torch.cat([carried[:, None], last[:, :-1]], dim=1)
            # In most chunks the highest exponent does not change, and all factors are 1. On a GPU
            # this test would wait for the device.
            if on_gpu(scales.device) or bool((last[:, -1] > carried).any()):
                within, past = _within(scale), (first[..., None] - scale).exp_()[..., None]
                to_last = (scale - last[..., None]).exp_()[..., None]
                decay = (first - last).exp_()[..., None, None]
            carried = last[:, -1]
            made.sub_(scale.to(made.dtype)[..., None]).exp_()
        own = made
        if to_last is not None:
            own = made * to_last.to(made.dtype)
        shares = scratch("shares", (*made.shape[:2], *shape[1:]), precision.scores)
        product(own.transpose(-2, -1), values, precision, shares)
        before = scratch("states", (*made.shape[:2], *shape[1:]), wide)
        for chunk in range(made.shape[1]):
            before[:, chunk] = state
            if decay is not None:
                state.mul_(decay[:, chunk])
            state.add_(shares[:, chunk])
        if queries is not None:
            asked = _asked(rows, queries, size)
            yield _Chunks(rows, queries, asked, made, values, before, within, past)


class _Later:
    """The gradient of the state from all later rows, from the last chunk to the first. Its scale is
    the scale of the first of these rows."""

    def __init__(self, rows: Rows, scales: Tensor) -> None:
        self.rows, self.scales = rows, scales
        shape = (len(rows.query), rows.features.num_features, rows.query.shape[-1] + 1)
        self.returned = torch.zeros(shape, dtype=scales.dtype, device=scales.device)
        self.scale = scales[:, -1]

    def take(
        self, part: slice, queries: slice | None, size: int, grad_sums: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the keys of some chunks, the gradient of the features or of their logarithms,
        and the gradient of the values, (slab, keys, ...)."""
        rows = self.rows
        features, precision, scratch = rows.features, rows.precision, rows.scratch
        made = rows.keys(part).unflatten(1, (-1, size))
        values = rows.values(part).unflatten(1, (-1, size))
        slab, chunks = made.shape[:2]
        wide = self.scales.dtype
        within: Tensor | None = None
        late: Tensor | None = None
        decay: Tensor | None = None
        if features.exponential:
            scale = self.scales[:, part].unflatten(1, (-1, size))
            made.sub_(scale.to(made.dtype)[..., None]).exp_()
            first = scale[..., 0]
            after = torch.cat([first[:, 1:], self.scale[:, None]], dim=1)
            late = (scale - after[..., None]).exp_()[..., None]
            decay = (first - after).exp_()[..., None, None]
            self.scale = first[:, 0]
        grad = scratch("grad features", made.shape, precision.scores)
        grad_values = scratch("sums", values.shape, precision.scores)
        own_grad = own_values = None
        if queries is not None and grad_sums is not None:
            grad_sums = grad_sums.view(slab, chunks, size, -1)
            own = _asked(rows, queries, size)
            if features.exponential:
                within = _within(scale)
            # The gradients of keys and values from the rows of their own chunk.
            own_grad = scratch("own grad", made.shape, precision.scores)
            weights = _earlier(rows, grad_sums, values, within)
            product(weights.transpose(-2, -1), own, precision, own_grad)
            own_values = scratch("own values", values.shape, precision.scores)
            weights = _earlier(rows, own, made, within)
            product(weights.transpose(-2, -1), grad_sums, precision, own_values)
            if features.exponential:
                own = own.mul_((first[..., None] - scale).exp_()[..., None].to(own.dtype))
            shares = scratch("shares", (slab, chunks, *self.returned.shape[1:]), precision.scores)
            product(own.transpose(-2, -1), grad_sums, precision, shares)
        else:
            shares = None
        # Each chunk gets the gradient from the chunks after it, and adds its own share.
        behind = scratch("states", (slab, chunks, *self.returned.shape[1:]), wide)
        for chunk in reversed(range(chunks)):
            behind[:, chunk] = self.returned
            if decay is not None:
                self.returned.mul_(decay[:, chunk])
            if shares is not None:
                self.returned.add_(shares[:, chunk])
        behind = behind.to(precision.operands)
        product(values, behind.transpose(-2, -1), precision, grad)
        product(made, behind, precision, grad_values)
        if late is not None:
            grad.mul_(late)
            grad_values.mul_(late)
        if own_grad is not None and own_values is not None:
            grad += own_grad
            grad_values += own_values
        if features.exponential:
            grad.mul_(made)
        return made.flatten(1, 2), grad.flatten(1, 2), grad_values.flatten(1, 2)[..., :-1]
