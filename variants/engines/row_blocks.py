"""A method that scores every key, computed for a block of query rows at a time.

The backward pass computes each block again, so the memory is linear in the sequence length. A
method defines only one block, with operations that torch can differentiate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.call import Call
from variants.contract.definitions import compute_dtype, visible
from variants.contract.modes import no_autocast
from variants.engines.primitives import head_slabs

ROWS = 256  # most query rows of a block, so that a causal block can leave out later keys
# A causal block takes a multiple of this number of keys. The fast route of float32 products
# compiles a kernel for each shape; one shape for each block would take longer than the work.
KEYS = 64

Block = Callable[..., Tensor]
"""Computes the output (1, heads, rows, head_dim) for some query rows of some heads of one sequence.

Its arguments are query (1, heads, rows, head_dim), key and value (1, kv_heads, keys, head_dim), the
learned tensors of these heads, and `allowed`: bool (1, 1, rows or 1, keys), the visible keys."""


def attend(
    block: Block,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *learned: Tensor,
    call: Call,
    width: int = 1,
) -> Tensor:
    """The output of `block` over all rows; shapes as in `Attention.__call__`.

    Args:
        learned: tensors (heads, ...), in the dtype in which the block computes.
        width: numbers that the block holds for each pair of a query and a key.
    """
    wide = compute_dtype(query.dtype)
    inputs = (x.to(wide) for x in (query, key, value))
    out: Tensor = _Blocks.apply(block, call.causal, width, call.key_padding_mask, *inputs, *learned)
    return out.to(query.dtype)


class _RowBlock(NamedTuple):
    """A block of rows of some heads of one sequence, and the keys that its rows may see."""

    offset: int  # position of the first query among the keys
    sequence: int
    heads: slice
    kv_heads: slice
    rows: slice
    keys: slice

    def of(self, inputs: Sequence[Any]) -> list[Any]:
        """Views of query, key, value and learned tensors, or of their gradients."""
        one = slice(self.sequence, self.sequence + 1)
        places = [
            (one, self.heads, self.rows),
            *[(one, self.kv_heads, self.keys)] * 2,
            *[(self.heads,)] * (len(inputs) - 3),
        ]
        return [None if x is None else x[at] for x, at in zip(inputs, places, strict=True)]

    def allowed(self, causal: bool, padding: Tensor | None, device: torch.device) -> Tensor:
        if padding is not None:
            padding = padding[self.sequence, None, self.keys]
        rows = torch.arange(self.rows.start, self.rows.stop, device=device)
        key_len = self.keys.stop
        call = Call(causal=causal, key_padding_mask=padding, scale=1.0)
        return visible(rows, key_len - self.offset, key_len, call)


def _parts(query: Tensor, key: Tensor, causal: bool, width: int) -> Iterator[_RowBlock]:
    """Blocks of all rows that see a key."""
    (batch, _, query_len, _), (_, kv_heads, key_len, _) = query.shape, key.shape
    group, offset = query.shape[1] // kv_heads, key_len - query_len
    room = head_slabs.budget(query.device, query.dtype, query.numel())
    room //= width * group * key_len
    at_once = max(1, room // ROWS)
    step = max(1, min(room, ROWS))
    for sequence in range(batch):
        for first in range(0, kv_heads, at_once):
            last = min(first + at_once, kv_heads)
            for start in range(max(0, -offset) if causal else 0, query_len, step):
                stop = min(start + step, query_len)
                seen = -(-(stop + offset) // KEYS) * KEYS if causal else key_len
                yield _RowBlock(
                    offset,
                    sequence,
                    slice(first * group, last * group),
                    slice(first, last),
                    slice(start, stop),
                    slice(0, min(seen, key_len)),
                )


class _Blocks(torch.autograd.Function):
    """Only the inputs are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, block: Block, causal: bool, width: int, padding: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        query, key, value = inputs[:3]
        out = value.new_zeros(*query.shape[:3], value.shape[3])
        for part in _parts(query, key, causal, width):
            allowed = part.allowed(causal, padding, query.device)
            made = block(*part.of(inputs), allowed=allowed)
            out[part.sequence, part.heads, part.rows] = made[0]
        ctx.save_for_backward(padding, *inputs)
        ctx.call = block, causal, width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        padding, *inputs = ctx.saved_tensors
        block, causal, width = ctx.call
        wanted = ctx.needs_input_grad[4:]
        totals = [torch.zeros_like(x) if w else None for x, w in zip(inputs, wanted, strict=True)]
        with no_autocast(grad_out.device):
            for part in _parts(inputs[0], inputs[1], causal, width):
                leaves = [x.detach() for x in part.of(inputs)]
                for leaf, want in zip(leaves, wanted, strict=True):
                    leaf.requires_grad_(want)
                with torch.enable_grad():
                    allowed = part.allowed(causal, padding, grad_out.device)
                    made = block(*leaves, allowed=allowed)
                own = grad_out[part.sequence, None, part.heads, part.rows]
                found = torch.autograd.grad(made, [x for x in leaves if x.requires_grad], own)
                summed = [x for x in part.of(totals) if x is not None]
                for total, share in zip(summed, found, strict=True):
                    total += share
        return None, None, None, None, *totals
