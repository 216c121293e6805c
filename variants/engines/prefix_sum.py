"""Kernelised attention: sums of feature(key) ⊗ value, over all keys or over the earlier ones.

Katharopoulos et al., Transformers are RNNs, 2020, https://arxiv.org/abs/2006.16236
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from variants.contract.dense import safe_total

CHUNK = 128


def attend(
    query: Tensor, key: Tensor, value: Tensor, log_scale: Tensor | None = None, *, causal: bool
) -> Tensor:
    """Normalised sum of values, weighted by the product of non-negative features.

    Args:
        query: features (batch, heads, query_len, num_features).
        key: features (batch, kv_heads, key_len, num_features).
        value: (batch, kv_heads, key_len, head_dim), of the same dtype.
        log_scale: (batch, kv_heads, key_len), for causal sums only; feature(key j) is really
            exp(log_scale[j]) times `key[j]`. Must not fall from one key to the next: it then
            holds the features in range without any row knowing of later keys.

    Returns:
        (batch, heads, query_len, head_dim); a row whose weights are all 0 is 0.
    """
    kv_heads, query_len, key_len = key.shape[1], query.shape[2], key.shape[2]
    query = query.unflatten(1, (kv_heads, -1))
    key, value = key[:, :, None], value[:, :, None]
    if not causal:
        state = key.transpose(-2, -1) @ value
        total = query @ key.sum(-2)[..., None]
        out = query @ state / safe_total(total)
        return out.flatten(1, 2)
    missing = key_len - query_len
    # Queries before the first key see nothing; keys before the first query get an empty query.
    query = pad(query[..., max(0, -missing) :, :], (0, 0, max(0, missing), 0))
    log_scale = key.new_zeros(key.shape[:-1]) if log_scale is None else log_scale[:, :, None]
    out = _Causal.apply(query, key, value, log_scale)
    return pad(out[..., max(0, missing) :, :], (0, 0, max(0, -missing), 0)).flatten(1, 2)


def _with_ones(value: Tensor) -> Tensor:
    """Values with a channel of ones, whose weighted sum is the normaliser."""
    return pad(value, (0, 1), value=1.0)


def _within(log_scale: Tensor, earlier: Tensor) -> Tensor:
    """Factors (..., rows, keys) that put each key of a chunk on the scale of each row."""
    difference = log_scale[..., None, :] - log_scale[..., :, None]
    return difference.masked_fill(~earlier, -torch.inf).exp_()


class _Causal(torch.autograd.Function):
    """Rows and keys of equal length. A state (num_features, head_dim + 1) goes from chunk to chunk,
    on the scale of the last key it holds; nothing of the length of the sequence is kept but the
    inputs and the output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, log_scale: Tensor) -> Tensor:
        out = value.new_empty(*query.shape[:-1], value.shape[-1])
        total = value.new_empty(query.shape[:-1])
        earlier = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=query.device).tril_()
        for chunk, state, carried in _states(key, value, log_scale):
            rows = query[..., chunk, :]
            scale = log_scale[..., chunk]
            size = rows.shape[-2]
            weights = rows @ key[..., chunk, :].transpose(-2, -1)
            weights = weights * _within(scale, earlier[:size, :size])
            past = rows * (carried[..., None] - scale).exp()[..., None]
            sums = weights @ _with_ones(value[..., chunk, :]) + past @ state
            norm = safe_total(sums[..., -1])
            total[..., chunk] = norm
            out[..., chunk, :] = sums[..., :-1] / norm[..., None]
        ctx.save_for_backward(query, key, value, log_scale, out, total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, log_scale, out, total = ctx.saved_tensors
        # Gradient of the sums before the division: of the values, then of the normaliser.
        grad_sums = grad_out / total[..., None]
        grad_sums = torch.cat([grad_sums, -(grad_sums * out).sum(-1, keepdim=True)], dim=-1)
        earlier = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=query.device).tril_()
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for chunk, state, carried in _states(key, value, log_scale):
            scale, sums = log_scale[..., chunk], grad_sums[..., chunk, :]
            factors = _within(scale, earlier[: sums.shape[-2], : sums.shape[-2]])
            weights = sums @ _with_ones(value[..., chunk, :]).transpose(-2, -1) * factors
            past = sums * (carried[..., None] - scale).exp()[..., None]
            grad_query[..., chunk, :] = weights @ key[..., chunk, :] + past @ state.transpose(
                -2, -1
            )
        # What later rows hand back, on the scale of the first row of the chunk they begin with.
        returned = key.new_zeros(*query.shape[:-2], key.shape[-1], value.shape[-1] + 1)
        later_scale = log_scale[..., -1]
        for start in reversed(range(0, key.shape[-2], CHUNK)):
            chunk = slice(start, start + CHUNK)
            scale, sums, rows = (
                log_scale[..., chunk],
                grad_sums[..., chunk, :],
                query[..., chunk, :],
            )
            factors = _within(scale, earlier[: sums.shape[-2], : sums.shape[-2]])
            ones = _with_ones(value[..., chunk, :])
            late = (scale - later_scale[..., None]).exp()[..., None]
            weights = sums @ ones.transpose(-2, -1) * factors
            from_later = (ones @ returned.transpose(-2, -1)) * late
            grad_chunk = weights.transpose(-2, -1) @ rows + from_later
            grad_key[..., chunk, :] = grad_chunk.sum(2, keepdim=True)
            weights = rows @ key[..., chunk, :].transpose(-2, -1) * factors
            grad_chunk = weights.transpose(-2, -1) @ sums[..., :-1]
            grad_chunk = grad_chunk + (key[..., chunk, :] @ returned[..., :-1]) * late
            grad_value[..., chunk, :] = grad_chunk.sum(2, keepdim=True)
            first = scale[..., 0]
            own = rows * (first[..., None] - scale).exp()[..., None]
            returned = returned * (first - later_scale).exp()[..., None, None]
            returned = returned + own.transpose(-2, -1) @ sums
            later_scale = first
        return grad_query, grad_key, grad_value, None


def _states(key: Tensor, value: Tensor, log_scale: Tensor) -> Any:
    """For each chunk of positions: its slice, the sum over earlier keys, and that sum's scale."""
    state = key.new_zeros(*key.shape[:-2], key.shape[-1], value.shape[-1] + 1)
    carried = log_scale[..., 0]
    for start in range(0, key.shape[-2], CHUNK):
        chunk = slice(start, start + CHUNK)
        yield chunk, state, carried
        scale = log_scale[..., chunk]
        last = scale[..., -1]
        keys = key[..., chunk, :] * (scale - last[..., None]).exp()[..., None]
        state = state * (carried - last).exp()[..., None, None]
        state = state + keys.transpose(-2, -1) @ _with_ones(value[..., chunk, :])
        carried = last
