"""Sums over earlier rows, with weights that decay with the distance, by chunks and a state.

Sun et al., Retentive Network, 2023, https://arxiv.org/abs/2307.08621
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.definitions import compute_dtype
from variants.contract.modes import no_autocast
from variants.engines.primitives.head_slabs import Slab
from variants.engines.primitives.softmax_tile import Scratch
from variants.engines.recurrent.decay_chunks import Chunks, States, heads_together


def decayed_sums(
    asked: Tensor, keys: Tensor, values: Tensor, states: States
) -> Iterator[tuple[Chunks, Tensor]]:
    """For each row of `asked`, the sum of decay^distance (asked · key) value over the rows at its
    own position and earlier positions, or in reverse later positions.

    Args:
        asked: (slab, rows, channels).
        keys, values: (slab, other rows, channels); the last rows of all tensors have the same
            position.

    Yields:
        Chunks of the rows of `asked`, and their sums (chunks, slab, size, channels) in a buffer.
    """
    scratch, dtype = states.scratch, states.dtype
    for chunks, decay in states.chunks():
        if chunks.hold(keys):
            own_keys = chunks.working(keys, "keys", dtype, scratch)
            own_values = chunks.working(values, "values", dtype, scratch)
            shares = states.shares(states.ahead(own_keys, decay), own_values)
            before = states.carry(shares, decay)
            if chunks.hold(asked):
                own = chunks.working(asked, "asked", dtype, scratch)
                yield chunks, states.sums(own, own_keys, own_values, before, decay)
        else:
            own = chunks.working(asked, "asked", dtype, scratch)
            nothing = own.new_zeros(()).expand(*own.shape[:2], *states.channels)
            yield chunks, states.past(own, states.carry(nothing, decay), decay)


class Retention(torch.autograd.Function):
    """Output: `decayed_sums` of queries, keys and values. The gradients are `decayed_sums` with
    exchanged arguments; the gradients of keys and values are sums in reverse."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        scale: float,
        size: int,
    ) -> Tensor:
        """`log_decay` (heads,) gets no gradient; a chunk has `size` rows. There are not more
        queries than keys."""
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        with no_autocast(query.device):
            for slab, states in _slabs(query, key, log_decay, scale, size):
                target = slab.queries(out)
                rows = slab.queries(query), slab.keys(key), slab.keys(value)
                for chunks, sums in decayed_sums(*rows, states(reverse=False)):
                    chunks.of(target).copy_(sums)
        ctx.save_for_backward(query, key, value, log_decay)
        ctx.settings = scale, size
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, log_decay = ctx.saved_tensors
        scale, size = ctx.settings
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (
            x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) for x in (key, value)
        )
        with no_autocast(query.device):
            for slab, states in _slabs(query, key, log_decay, scale, size):
                own_query, own_grad = slab.queries(query), slab.queries(grad_out)
                own_key, own_value = slab.keys(key), slab.keys(value)
                target = slab.queries(grad_query)
                forward = states(reverse=False)
                for chunks, grad in decayed_sums(own_grad, own_value, own_key, forward):
                    chunks.of(target).copy_(grad)
                with slab.adding(grad_key) as target:
                    back = states(reverse=True)
                    for chunks, grad in decayed_sums(own_value, own_grad, own_query, back):
                        chunks.of(target).add_(grad)
                with slab.adding(grad_value) as target:
                    back = states(reverse=True)
                    for chunks, grad in decayed_sums(own_key, own_query, own_grad, back):
                        chunks.of(target).add_(grad)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None


def _slabs(
    query: Tensor, key: Tensor, log_decay: Tensor, scale: float, size: int
) -> Iterator[tuple[Slab, Callable[..., States]]]:
    """Slabs of heads, and a function that makes their `States`."""
    scratch, dtype = Scratch(query.device), compute_dtype(query.dtype)
    lengths, channels = (query.shape[2], key.shape[2]), (key.shape[3], key.shape[3])
    for slab in heads_together(query, key, size, dtype):
        own_decay = log_decay[slab.own_heads(len(log_decay), log_decay.device)]
        yield slab, partial(States, own_decay, lengths, channels, dtype, scratch, size, scale)
