"""Softmax attention over keys that each query selects, in one launch for all rounds and heads.

An item is a query row in one round. The items of a head are sorted so that each one sees a range of
sorted keys, and both ends of the ranges increase. So tiles of consecutive items need no table: the
keys of a tile are one range, and the items that see a tile of keys are one range too. Scores are
never written to memory. The backward pass computes the weights again, and is deterministic: each
sum is made by one program, and shares of several rounds are added afterwards.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.modes import untraced
from variants.contract.strides import readable
from variants.engines.gpu.selected import gathered_operations as operations

SHARES = 4  # float32 tensors of the size of the query that hold shares of rounds at a time


class Gathered(NamedTuple):
    """The items of all heads, and the keys that they see. `slab` is batch·heads."""

    order: Tensor  # int64 (slab·items,) index of each sorted item; item = round·query_len + row
    low: Tensor  # int32 (slab, items) first sorted key of each sorted item
    high: Tensor  # int32 (slab, items) end of its keys; no key if not above `low`
    # int64 (slab·copies·key_len,) index of each sorted key; None if keys keep their order.
    place: Tensor | None
    hidden: Tensor | None  # bool (batch, key_len), contiguous; keys that no item sees
    copies: int = 1  # number of orders of the keys, which follow each other


@dataclass(frozen=True)
class Rules:
    """The rules that hide keys of a range, and the output of a row that sees no key.

    own_value: the value at the position of the query instead of 0.
    """

    scale: float
    hides_later: bool = False
    hides_own: bool = False
    own_value: bool = False


def attend(query: Tensor, key: Tensor, value: Tensor, gathered: Gathered, rules: Rules) -> Tensor:
    """Softmax over all (round, key) pairs that a query sees. A key in two rounds counts twice.

    Args:
        query, key, value: as in `Attention.__call__`.
    """
    query, key, value = map(readable, (query, key, value))
    out: Tensor = untraced(_Gathered.apply)(
        rules, gathered.copies, query, key, value, *gathered[:5]
    )
    return out


def _portions(heads: int, shares: int, unit: int) -> list[tuple[int, int]]:
    """First head and number of heads of parts that are computed one after the other, in multiples
    of `unit` heads, so that at most `SHARES` of the `shares` of all heads are held at a time."""
    parts = -(-shares // SHARES)
    step = max(1, heads // unit // parts) * unit
    return [(first, min(step, heads - first)) for first in range(0, heads, step)]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rules: Rules, copies: int, query: Tensor, key: Tensor, value: Tensor, *held: Any
    ) -> Tensor:
        (batch, heads, query_len, _), order = query.shape, held[0]
        rounds = order.numel() // (batch * heads * query_len)
        flags = astuple(rules)
        hidden = held[4]
        if rounds == 1:
            out, lse = operations.forward(
                query, key, value, *held, copies, *flags, 0, batch * heads, False
            )
        else:
            out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
            lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
            for first, count in _portions(batch * heads, rounds, 1):
                found = operations.forward(
                    query, key, value, *held, copies, *flags, first, count, True
                )
                operations.merge(*found, value, hidden, out, lse, rules.own_value, first)
        ctx.save_for_backward(query, key, value, out, lse, *held)
        ctx.settings = rules, copies, rounds
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_out = grads[0]
        if grad_out.stride(-1) != 1:
            grad_out = grad_out.contiguous()
        query, key, value, out, lse, *held = ctx.saved_tensors
        rules, copies, rounds = ctx.settings
        batch, heads = query.shape[:2]
        kv_heads, key_len = key.shape[1:3]
        flags = astuple(rules)
        hidden = held[4]
        delta = operations.row_delta(out, grad_out)
        inputs = query, key, value, *held, grad_out, lse, delta, copies, *flags
        if rounds == 1:
            grad_query = operations.query_gradient(*inputs, 0, batch * heads, False)
        else:
            grad_query = torch.empty(query.shape, dtype=query.dtype, device=query.device)
            for first, count in _portions(batch * heads, rounds, 1):
                share = operations.query_gradient(*inputs, first, count, True)
                operations.sum_copies(share, grad_query, grad_out, lse, hidden, False, first, 1)
        low, high = held[1], held[2]
        tile = operations.keys_of_a_tile(query)
        first_key = operations.tile_starts(copies * key_len, tile, query.device)
        first_key = first_key.expand(batch * heads, -1).contiguous()
        begins = torch.searchsorted(high, first_key, right=True, out_int32=True)
        ends = torch.searchsorted(low, first_key + tile, out_int32=True)
        ranges = (begins, ends)
        group = heads // kv_heads
        if copies == 1 and group == 1 and not rules.own_value:
            grad_key, grad_value = operations.key_gradient(
                *inputs, *ranges, 0, batch * heads, False
            )
        else:
            grad_key, grad_value = (
                torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (key, value)
            )
            for first, count in _portions(batch * heads, 2 * copies, group):
                shares = operations.key_gradient(*inputs, *ranges, first, count, True)
                for share, total, adds in zip(
                    shares, (grad_key, grad_value), (False, rules.own_value), strict=True
                ):
                    operations.sum_copies(
                        share, total, grad_out, lse, hidden, adds, first // group, group
                    )
        return None, None, grad_query, grad_key, grad_value, *[None] * 5
