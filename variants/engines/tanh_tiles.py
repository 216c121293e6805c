"""Softmax of scores vector · tanh(query + key), tile by tile, with σ in the place of tanh.

tanh(x) is 1 - 2 σ(-2x). The 1 adds the sum of the vector to every score of a row, which cancels:
the score of a pair is -2 vector · σ(-2 query - 2 key).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.modes import no_autocast
from variants.engines.primitives.head_slabs import Slab, budget, slabs
from variants.engines.primitives.precision import Precision, product
from variants.engines.primitives.softmax_tile import Scratch

ROWS = 64  # query rows of a tile
KEYS = 1024  # keys of a tile, before it takes more heads


def attend(
    queries: Tensor,
    keys: Tensor,
    vector: Tensor,
    value: Tensor,
    *,
    causal: bool,
    key_padding_mask: Tensor | None,
) -> Tensor:
    """The output (batch, heads, query_len, head_dim) of hidden units `queries` and `keys` (batch,
    heads, len, hidden_dim), `vector` (heads, hidden_dim) and `value` (batch, kv_heads, key_len,
    head_dim), all of one dtype."""
    out: Tensor = _Tiles.apply(queries, keys, vector, value, key_padding_mask, causal)
    return out


class _Portion(NamedTuple):
    """Some query rows of some heads, and the keys that any of these rows sees."""

    slab: Slab
    rows: slice
    shared: int  # keys up to here are seen by the first row; each later row sees one more
    last: int  # keys up to here are seen by the last row
    queries: Tensor  # hidden units (slab, rows, hidden_dim) times -2
    keys: Tensor  # hidden units (slab, hidden_dim, key_len) times -2
    vector: Tensor  # (slab, rows, hidden_dim) times -2
    powers: _Powers | None
    chunk: int  # keys of a tile

    def tiles(self) -> Iterator[slice]:
        """Keys tile by tile; those that only some rows see stand apart."""
        for start, stop in ((0, self.shared), (self.shared, self.last)):
            for first in range(start, stop, self.chunk):
                yield slice(first, min(first + self.chunk, stop))

    def hide(self, scores: Tensor, tile: slice, padding: Tensor | None) -> None:
        """Set scores (slab, rows, keys of the tile) of what is not seen to -inf."""
        if padding is not None:
            scores.masked_fill_(padding[:, None, tile], -torch.inf)
        if tile.stop > self.shared:
            keys = torch.arange(tile.start, tile.stop, device=scores.device)
            seen = self.shared + torch.arange(scores.shape[1], device=scores.device)
            scores.masked_fill_(keys >= seen[:, None], -torch.inf)


def _portions(
    queries: Tensor,
    keys: Tensor,
    vector: Tensor,
    value: Tensor,
    causal: bool,
    scratch: Scratch,
    *,
    fast: bool,
) -> Iterator[_Portion]:
    """All rows that see any key, as many at a time as fit the budget."""
    query_len, key_len, units = queries.shape[2], keys.shape[2], queries.shape[3]
    offset = key_len - query_len
    # Three passes over a tile are short calls: a CPU takes larger ones than for products.
    room = budget(queries.device, queries.dtype) * (4 if queries.device.type == "cpu" else 1)
    count = min(ROWS, query_len)
    for slab in slabs(queries, value, room // (count * units * KEYS)):
        own_keys = scratch.copy("keys", slab.queries(keys).mT, keys.dtype, -2.0)
        own_vector = vector[slab.own_heads(len(vector), vector.device)][:, None] * -2
        powers = _Powers.of(own_keys, scratch) if fast else None
        for start in range(max(0, -offset) if causal else 0, query_len, count):
            stop = min(start + count, query_len)
            own_queries = slab.queries(queries)[:, start:stop] * -2
            yield _Portion(
                slab=slab,
                rows=slice(start, stop),
                shared=start + offset + 1 if causal else key_len,
                last=stop + offset if causal else key_len,
                queries=own_queries,
                keys=own_keys,
                vector=own_vector.expand_as(own_queries),
                powers=powers.with_rows(own_queries, own_vector) if powers else None,
                chunk=max(1, room // (len(own_keys) * count * units)),
            )


class _Powers(NamedTuple):
    """σ without an exponential for each pair: with x = exp(-2 query) and y = exp(2 key) it is
    x / (x + y), and the x of a row goes into its vector."""

    keys: Tensor  # y, (slab, hidden_dim, key_len)
    tame: int  # keys up to here are none so large that the quotient would differ from σ
    queries: Tensor  # x, (slab, rows, hidden_dim)
    vector: Tensor  # that times x

    @classmethod
    def of(cls, keys: Tensor, scratch: Scratch) -> _Powers:
        """From -2 key. What counts is what stands before a key, so that no later one is felt, be
        it by rounding."""
        least = _reach(keys.dtype) + math.log(torch.finfo(keys.dtype).eps)
        large = (keys.abs() > least).flatten(0, 1).any(0)
        tame = int(large.int().argmax()) if bool(large.any()) else len(large)
        powers = torch.neg(keys, out=scratch("powers", keys.shape, keys.dtype)).exp_()
        return cls(powers, tame, keys, keys)

    def with_rows(self, queries: Tensor, vector: Tensor) -> _Powers:
        """For rows of -2 query, held back where σ is 0 or 1 for any tame key."""
        reach = _reach(queries.dtype)
        powers = queries.clamp(-reach, reach).exp_()
        return self._replace(queries=powers, vector=vector * powers)


def _reach(dtype: torch.dtype) -> float:
    """An exponent whose power leaves as much range again for what is multiplied with it."""
    return math.log(torch.finfo(dtype).max) / 2


def _gates(queries: Tensor, keys: Tensor, tile: slice, scratch: Scratch) -> Tensor:
    """The sum of each query and key in each unit, (slab, rows, hidden_dim, keys of the tile)."""
    shape = (*queries.shape, tile.stop - tile.start)
    made = scratch("gates", shape, keys.dtype)
    return torch.add(queries[..., None], keys[:, None, :, tile], out=made)


def _scores(portion: _Portion, tile: slice, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Scores of a tile (slab, rows, keys), and the buffer they are sums of: σ (slab, rows,
    hidden_dim, keys), unless powers served: those of keys that all of the rows see."""
    powers = portion.powers
    if powers is not None and tile.stop <= min(powers.tame, portion.shared):
        vector = powers.vector
        gates = _gates(powers.queries, powers.keys, tile, scratch).reciprocal_()
    else:
        vector = portion.vector
        gates = _gates(portion.queries, portion.keys, tile, scratch).sigmoid_()
    made = scratch("tile", (*vector.shape[:2], 1, gates.shape[3]), gates.dtype)
    torch.bmm(vector.flatten(0, 1)[:, None], gates.flatten(0, 1), out=made.flatten(0, 1))
    return made[:, :, 0], gates


class _Tiles(torch.autograd.Function):
    """Kept are inputs, output and one number a row; what is between is computed again in the
    backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        vector: Tensor,
        value: Tensor,
        padding: Tensor | None,
        causal: bool,
    ) -> Tensor:
        out = value.new_zeros(*queries.shape[:3], value.shape[3])
        sums = queries.new_full(queries.shape[:3], torch.inf)  # their logarithms; inf for nothing
        scratch = Scratch(queries.device)
        precision = Precision(queries.dtype, queries.dtype)
        # To know how large keys are, a GPU would have to be waited for.
        fast = queries.device.type == "cpu"
        for portion in _portions(queries, keys, vector, value, causal, scratch, fast=fast):
            slab, rows = portion.slab, portion.rows
            hidden = slab.sequences(padding, queries.shape[1])
            shape = (*portion.queries.shape[:2], portion.last)
            scores = scratch("scores", shape, queries.dtype)
            for tile in portion.tiles():
                part, _ = _scores(portion, tile, scratch)
                portion.hide(part, tile, hidden)
                scores[:, :, tile] = part
            highest = scores.amax(-1, keepdim=True)
            weights = scores.sub_(highest.clamp(min=torch.finfo(scores.dtype).min)).exp_()
            total = weights.sum(-1, keepdim=True)
            nothing = total == 0
            made = scratch("out", (*shape[:2], value.shape[3]), value.dtype)
            with no_autocast(queries.device):
                product(weights, slab.keys(value)[:, : portion.last], precision, made)
            slab.queries(out)[:, rows] = made.div_(total.masked_fill(nothing, 1))
            lse = highest.add_(total.log_()).masked_fill_(nothing, torch.inf)
            slab.queries(sums)[:, rows] = lse[:, :, 0]
        ctx.save_for_backward(queries, keys, vector, value, padding, out, sums)
        ctx.causal = causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        queries, keys, vector, value, padding, out, sums = ctx.saved_tensors
        grad_queries, grad_keys, grad_value = (x.new_zeros(x.shape) for x in (queries, keys, value))
        grad_vectors = queries.new_zeros(*queries.shape[:2], queries.shape[3])
        delta = (grad_out * out).sum(-1)
        scratch = Scratch(queries.device)
        inputs = queries, keys, vector, value, ctx.causal, scratch
        for portion in _portions(*inputs, fast=False):
            slab, rows = portion.slab, portion.rows
            hidden = slab.sequences(padding, queries.shape[1])
            own_out = slab.queries(grad_out)[:, rows]
            own_lse, own_delta = (slab.queries(x)[:, rows, None] for x in (sums, delta))
            for tile in portion.tiles():
                scores, gates = _scores(portion, tile, scratch)
                portion.hide(scores, tile, hidden)
                weights = scores.sub_(own_lse).exp_()
                values = slab.keys(value)[:, tile]
                with slab.adding(grad_value) as total:
                    total[:, tile] += weights.mT @ own_out
                # Of the scores, then of what the gates are taken of: σ' = σ - σ².
                grad = (own_out @ values.mT).sub_(own_delta).mul_(weights)
                # In this order; a product with a column is an order slower on a CPU.
                slab.queries(grad_vectors).add_((grad[:, :, None] @ gates.mT).sum((1, 2)))
                slopes = torch.addcmul(gates, gates, gates, value=-1, out=gates)
                slopes.mul_(grad[:, :, None])
                slab.queries(grad_queries)[:, rows] += slopes.sum(-1)
                slab.queries(grad_keys).mT[:, :, tile] += slopes.sum(1)
        factor = 4 * vector[:, None]
        return (
            grad_queries.mul_(factor),
            grad_keys.mul_(factor),
            grad_vectors.sum(0).mul_(-2),
            grad_value,
            None,
            None,
        )
