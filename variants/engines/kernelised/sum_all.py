"""Kernelised attention over all keys: one sum over keys for each feature, which all queries read.

With exponential features the method is two softmax attentions. In the first, each feature has
softmax weights over the keys; its state is the mean value and the logarithm of the normaliser. In
the second, each query has softmax weights over the features, with these logarithms as a bias. So no
number leaves the range of the dtype, and there is no division at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.call import Call
from variants.contract.definitions import compute_dtype, safe_total
from variants.contract.modes import no_autocast
from variants.engines.kernelised import sum_causal
from variants.engines.kernelised.feature_map import (
    Features,
    Rows,
    divide,
    slabs,
    step,
    transposed_product,
)
from variants.engines.primitives.precision import Precision, product
from variants.engines.primitives.row_slices import row_slices
from variants.engines.primitives.softmax_tile import HIDDEN


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    features: Features,
    call: Call,
    *,
    coarse: bool = False,
) -> Tensor:
    """Sum of values, weighted by the product of features and divided by the sum of the weights.

    Shapes as in `Attention.__call__`. If all weights of a row are 0, the row is 0.
    """
    wide = compute_dtype(query.dtype)
    precision = Precision.of(query, coarse=True) if coarse else Precision(wide, wide)
    function = sum_causal.Causal if call.causal else _SumAll
    out: Tensor = function.apply(query, key, value, call.key_padding_mask, features, precision)
    return out


def states(
    query: Tensor, key: Tensor, value: Tensor, features: Features, padding: Tensor | None
) -> Tensor:
    """The state after all keys, (batch * heads, num_features, head_dim + 1), for the heads of
    `query`: sums of values and of ones or, with exponential features, mean values and the logarithm
    of the normaliser."""
    wide = compute_dtype(query.dtype)
    precision = Precision(wide, wide)
    shape = (query.shape[0] * query.shape[1], features.num_features, value.shape[3] + 1)
    found = query.new_zeros(shape, dtype=wide)
    size = step(query, features, precision)
    arguments = query, key, value, padding, features, precision
    with no_autocast(query.device):
        for rows in slabs(*arguments, min(size, key.shape[2])):
            _fill(rows, found[rows.slab.heads], size)
    return found


class _SumAll(torch.autograd.Function):
    """Computes one state for each head, as in `states`."""

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
        batch, num_heads, query_len, head_dim = query.shape
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        states = query.new_zeros(
            batch * num_heads,
            features.num_features,
            head_dim + 1,
            dtype=compute_dtype(query.dtype),
        )
        size = step(query, features, precision)
        arguments = query, key, value, padding, features, precision
        with no_autocast(query.device):
            for rows in slabs(*arguments, min(size, key.shape[2])):
                state = states[rows.slab.heads]
                _fill(rows, state, size)
                target = rows.slab.queries(out)
                for part in row_slices(0, query_len, size):
                    made = _queries(rows, part, state)
                    if features.exponential:
                        target[:, part] = _sums(made, state[..., :-1], rows)
                    else:
                        divide(_sums(made, state, rows), target[:, part])
        ctx.save_for_backward(query, key, value, out, states, padding)
        ctx.settings = features, precision
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, out, states, padding = ctx.saved_tensors
        features, precision = ctx.settings
        wide = compute_dtype(query.dtype)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = (x.new_zeros(x.shape, dtype=wide) for x in (key, value))
        size = step(query, features, precision)
        arguments = query, key, value, padding, features, precision
        with no_autocast(query.device):
            for rows in slabs(*arguments, min(size, key.shape[2])):
                slab, scratch = rows.slab, rows.scratch
                state = states[slab.heads]
                mixed = state
                if features.exponential:
                    # The weights of a query sum to 1, which equals the sum over a channel of ones.
                    mixed = torch.cat([state[..., :-1], torch.ones_like(state[..., :1])], dim=-1)
                grad_state = torch.zeros_like(state)
                own_out, own_grad = slab.queries(out), slab.queries(grad_out)
                for part in row_slices(0, query.shape[2], size):
                    made = _queries(rows, part, state)
                    total = made.new_ones((), dtype=wide).expand(*made.shape[:2], 1)
                    if not features.exponential:
                        total = safe_total(_sums(made, state, rows)[..., -1:])
                    sums = rows.grad_sums(own_out[:, part], own_grad[:, part], total)
                    grad_state += transposed_product(made, sums, precision, scratch)
                    grad = scratch("grad features", made.shape, precision.scores)
                    product(sums, mixed.to(precision.operands).mT, precision, grad)
                    if features.exponential:
                        grad.mul_(made)
                    slab.queries(grad_query)[:, part] = features.query_grad(
                        rows.query[:, part], made, grad, slab
                    )
                with slab.adding(grad_key) as own_key, slab.adding(grad_value) as own_value:
                    for part in row_slices(0, key.shape[2], size):
                        made = rows.keys(part)
                        if features.exponential:
                            made.sub_(state[:, None, :, -1].to(made.dtype)).exp_()
                        values = rows.values(part)
                        grad = scratch("grad features", made.shape, precision.scores)
                        product(values, grad_state.to(precision.operands).mT, precision, grad)
                        if features.exponential:
                            grad.mul_(made)
                        own_key[:, part] += features.key_grad(rows.key[:, part], made, grad, slab)
                        own_value[:, part] += _sums(made, grad_state[..., :-1], rows)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None


def _fill(rows: Rows, state: Tensor, size: int) -> None:
    """Add all keys to a state of zeros."""
    if rows.features.exponential:
        return _mean_values(rows, state, size)
    for part in row_slices(0, rows.key.shape[1], size):
        made, values = rows.keys(part), rows.values(part)
        state += transposed_product(made, values, rows.precision, rows.scratch)
    return None


def _mean_values(rows: Rows, state: Tensor, size: int) -> None:
    """Compute the state of exponential features: each feature has softmax weights over the keys."""
    precision, wide = rows.precision, state.dtype
    mean, log_total = state[..., :-1], state[..., -1]
    log_total.fill_(HIDDEN)
    for part in row_slices(0, rows.key.shape[1], size):
        exponents = rows.exponents(part)
        highest = exponents.amax(-1)
        torch.softmax(exponents, -1, out=exponents)
        # The largest weight is exp(0) divided by the normaliser.
        own = highest.to(wide) - exponents.amax(-1).to(wide).log()
        both = torch.logaddexp(log_total, own)
        shares = rows.scratch("partial sums", mean.shape, precision.scores)
        product(exponents, rows.plain_values(part), precision, shares)
        mean.mul_((log_total - both).exp_()[..., None])
        mean.add_(shares * (own - both).exp_()[..., None])
        log_total.copy_(both)


def _queries(rows: Rows, part: slice, state: Tensor) -> Tensor:
    """Features of some queries, up to a factor for each row, which cancels."""
    made = rows.queries(part)
    if rows.features.exponential:
        made.add_(state[:, None, :, -1].to(made.dtype))
        torch.softmax(made, -1, out=made)
    return made


def _sums(made: Tensor, state: Tensor, rows: Rows) -> Tensor:
    precision = rows.precision
    shape = (*made.shape[:2], state.shape[-1])
    sums = rows.scratch("sums", shape, precision.scores)
    return product(made, state.to(precision.operands), precision, sums)
