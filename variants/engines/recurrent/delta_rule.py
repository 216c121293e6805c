"""The gated delta rule: a state decays, and each key writes its prediction error to the state.

Row t writes u_t = write · (value_t - key_t · decayed state). Within a chunk the written rows are
the solution of one triangular system, so only the states are computed one after the other. The
output is a decayed sum of the written rows.

Yang et al., Gated Delta Networks, 2024, https://arxiv.org/abs/2412.06464
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.definitions import compute_dtype
from variants.contract.modes import no_autocast
from variants.engines.primitives.head_slabs import Slab
from variants.engines.primitives.precision import product
from variants.engines.primitives.softmax_tile import Scratch
from variants.engines.recurrent.decay_chunks import Chunks, States, heads_together
from variants.engines.recurrent.retention import decayed_sums

SHORTEST = 1e-15  # norm up to which a key counts as zero; the same in every dtype


class Written(NamedTuple):
    """Consecutive chunks, all (chunks, slab, ...) in buffers."""

    chunks: Chunks
    keys: Tensor
    states: Tensor  # before each chunk
    rows: Tensor  # written by each row


def written(
    keys: Tensor, lengths: Tensor, values: Tensor, write: Tensor, states: States
) -> Iterator[Written]:
    """Solve for the written rows, from keys, their norms `lengths` and values (slab, rows, channels
    or 1); `states` have `write` (slab, 1, 1) as their factor."""
    scratch, dtype, precision = states.scratch, states.dtype, states.precision
    for chunks, decay in states.chunks():
        found = chunks.of(keys)
        own = scratch("keys", found.shape, dtype)
        torch.div(found, chunks.of(lengths), out=own)
        identity = torch.eye(chunks.size, dtype=dtype, device=keys.device)
        # The solver uses ones on the diagonal, and zeros in the other triangle.
        inverse = torch.linalg.solve_triangular(
            states.scores(own, own, decay), identity, upper=states.reverse, unitriangular=True
        )
        right = scratch("right", own.shape, dtype)
        torch.mul(chunks.of(values), write, out=right)
        rows = product(inverse, right, precision, scratch("rows", own.shape, dtype))
        # The part of the written rows that depends on the state before the chunk.
        torch.mul(own, decay.read, out=right)
        known = product(inverse, right, precision, scratch("known", own.shape, dtype))
        ahead = states.ahead(own, decay)
        shares = states.shares(ahead, rows)
        moves = product(ahead.mT, known, precision, scratch("moves", shares.shape, dtype)).neg_()
        moves.diagonal(dim1=-2, dim2=-1).add_(decay.whole[..., 0])
        before = states.carry(shares, decay, moves)
        yield Written(chunks, own, before, rows.sub_(product(known, before, precision, right)))


class _Heads:
    """A slab of heads, and the learned parameters of each head."""

    def __init__(
        self,
        slab: Slab,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        log_write: Tensor,
        size: int,
        scratch: Scratch,
    ) -> None:
        self.slab, self.size, self.scratch = slab, size, scratch
        self.which = slab.own_heads(len(log_decay), log_decay.device)
        self.log_decay = log_decay[self.which]
        self.write = log_write[self.which].exp()[:, None, None]
        self.query, self.value = slab.queries(query), slab.keys(value)
        self.dtype = compute_dtype(query.dtype)
        self.keys = slab.keys(key)
        lengths = torch.linalg.vector_norm(self.keys, dim=-1, keepdim=True, dtype=self.dtype)
        self.lengths = lengths.masked_fill_(lengths <= SHORTEST, torch.inf)

    def states(self, factor: Tensor | float = 1.0, *, reverse: bool = False) -> States:
        return States(
            self.log_decay,
            (self.query.shape[1], self.keys.shape[1]),
            (self.keys.shape[2], self.value.shape[2]),
            self.dtype,
            self.scratch,
            self.size,
            factor,
            reverse=reverse,
        )

    def written(self, values: Tensor, states: States) -> Iterator[Written]:
        return written(self.keys, self.lengths, values, self.write, states)


def _slabs(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, log_write: Tensor, size: int
) -> Iterator[_Heads]:
    scratch = Scratch(query.device)
    for slab in heads_together(query, key, size, compute_dtype(query.dtype)):
        yield _Heads(slab, query, key, value, log_decay, log_write, size, scratch)


class _DecayGrad:
    """Gradient of the logarithm of each head's decay, (slab,) in float64.

    A piece is a group of consecutive chunks. The decay since the beginning of the piece multiplies
    the values that a row reads, and divides the values that it writes. So the share of a row is
    multiplied by its number of rows from the beginning of the piece. At the end of a piece, the
    share is the product of the state with its gradient, multiplied by the number of rows of the
    piece. If rows were counted from the first row of the sequence, no states would be needed, but
    the rounding error would be too large.
    """

    def __init__(self, log_decay: Tensor) -> None:
        self.total = torch.zeros_like(log_decay, dtype=torch.float64)
        self.decay = log_decay.exp()[:, None, None]
        self._left: dict[int, tuple[int, Tensor]] = {}

    def leave(self, chunks: Chunks, state: Tensor) -> None:
        """Keep the state after some chunks."""
        self._left[chunks.stop] = chunks.stop - chunks.start, state * self.decay

    def meet(self, chunks: Chunks, state: Tensor, factor: float) -> None:
        """Add the share of the state before some chunks; `state` times `factor` is its gradient."""
        if chunks.start:
            rows, left = self._left[chunks.start]
            self.total += (left * state).sum((1, 2), dtype=torch.float64) * (factor * rows)

    def read(self, chunks: Chunks, tensor: Tensor, grad: Tensor, sign: int = 1) -> None:
        """Add the shares of rows that read, or with `sign` -1 write: `grad` (chunks, slab, size,
        channels) is the gradient of `tensor` (slab, rows, channels)."""
        steps = torch.arange(1, chunks.stop - chunks.start + 1, device=grad.device)
        products = (chunks.of(tensor) * grad).sum(-1)
        self.total += (products * steps.double().view(-1, 1, chunks.size)).sum((0, 2)) * sign


class GatedDelta(torch.autograd.Function):
    """Output: `decayed_sums` of queries, unit keys and written rows. The gradient of the written
    rows is the solution of the transposed triangular system: the delta rule in reverse."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        log_write: Tensor,
        scale: float,
        size: int,
    ) -> Tensor:
        """`log_decay` and `log_write` are (heads,); a chunk has `size` rows. There are not more
        queries than keys."""
        inputs = query, key, value, log_decay, log_write
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        with no_autocast(query.device):
            for heads in _slabs(*inputs, size):
                target, dtype, scratch = heads.slab.queries(out), heads.dtype, heads.scratch
                writer, reader = heads.states(heads.write), heads.states(scale)
                for found in heads.written(heads.value, writer):
                    chunks, keys, before, rows = found
                    if chunks.hold(heads.query):
                        asked = chunks.working(heads.query, "asked", dtype, scratch)
                        sums = reader.sums(asked, keys, rows, before, reader.decay(chunks.size))
                        chunks.of(target).copy_(sums)
        ctx.save_for_backward(*inputs)
        ctx.settings = scale, size
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, log_decay, log_write = inputs = ctx.saved_tensors
        scale, size = ctx.settings
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (
            x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) for x in (key, value)
        )
        grad_decay, grad_write = (x.new_zeros(x.shape, dtype=torch.float64) for x in inputs[3:])
        with no_autocast(query.device):
            for heads in _slabs(query, key, value, log_decay, log_write, size):
                slab, write = heads.slab, heads.write
                own_query, own_grad = heads.query, slab.queries(grad_out)
                keys, rows, back, own_key = (
                    heads.scratch(name, heads.keys.shape, heads.dtype)
                    for name in ("unit", "written", "written back", "own key")
                )
                torch.div(heads.keys, heads.lengths, out=keys)
                decay = _DecayGrad(heads.log_decay)
                states = heads.states(write)
                for found in heads.written(heads.value, states):
                    found.chunks.of(rows).copy_(found.rows)
                    decay.leave(found.chunks, states.state)
                states = heads.states(scale, reverse=True)
                for chunks, sums in decayed_sums(keys, own_query, own_grad, states):
                    chunks.of(back).copy_(sums)
                    decay.meet(chunks, states.state, scale)
                states = heads.states(write, reverse=True)
                for found in heads.written(back, states):
                    # `back` has already been read here.
                    found.chunks.of(back).copy_(found.rows)
                    decay.meet(found.chunks, states.state, -1)
                with slab.adding(grad_value) as own_value:
                    own_value += back
                tiny = torch.finfo(heads.dtype).tiny
                shares = (rows * back).sum(-1).div_(write[..., 0].clamp(min=tiny))
                grad_write.index_add_(0, heads.which, shares.sum(-1, dtype=torch.float64))
                back.neg_()

                target = slab.queries(grad_query)
                for chunks, grad in decayed_sums(own_grad, rows, keys, heads.states(scale)):
                    chunks.of(target).copy_(grad)
                    decay.read(chunks, own_query, grad)
                # The last two sums should not contain the products of a row with itself. These
                # products only add a multiple of the unit key, which is removed below, and cancel
                # in the gradient of the decay.
                own_key.zero_()
                for asked, sources, values, states in (
                    (rows, own_grad, own_query, heads.states(scale, reverse=True)),
                    (rows, back, keys, heads.states(reverse=True)),
                    (back, rows, keys, heads.states()),
                ):
                    for chunks, grad in decayed_sums(asked, sources, values, states):
                        chunks.of(own_key).add_(grad)
                        decay.read(chunks, keys, grad, -1 if states.reverse else 1)
                grad_decay.index_add_(0, heads.which, decay.total)
                with slab.adding(grad_key) as own_total:
                    along = (own_key * keys).sum(-1, keepdim=True)
                    own_total += own_key.sub_(keys.mul_(along)).div_(heads.lengths)
        return (
            grad_query,
            grad_key.to(key.dtype),
            grad_value.to(value.dtype),
            grad_decay.to(log_decay.dtype),
            grad_write.to(log_write.dtype),
            None,
            None,
        )
