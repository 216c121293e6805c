"""The quadratic definitions that kernels are checked against."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.call import Call


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types; other dtypes unchanged."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def without_padding(key_padding_mask: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Keys and values (batch, kv_heads, key_len, head_dim) with zeros at padding. They are filled
    and not multiplied by zero, because padding may contain NaN."""
    if key_padding_mask is None:
        return tensors
    padding = key_padding_mask[:, None, :, None]
    return tuple(x.masked_fill(padding, 0) for x in tensors)


def expand_heads(key: Tensor, heads: int) -> Tensor:
    """Repeat heads, (batch, kv_heads, ...) to (batch, heads, ...): one copy for each query head."""
    group = heads // key.shape[1]
    return key if group == 1 else key.repeat_interleave(group, dim=1)


def query_positions(rows: Tensor, query_len: int, key_len: int) -> Tensor:
    """Positions of query rows, on the scale of key positions: the last query is at the last key."""
    return rows + (key_len - query_len)


def visible(rows: Tensor, query_len: int, key_len: int, call: Call) -> Tensor:
    """Bool (batch or 1, 1, len(rows) or 1, key_len): True for keys that are not padding and, if
    causal, not later than the query."""
    allowed = torch.ones(1, 1, 1, key_len, dtype=torch.bool, device=rows.device)
    if call.causal:
        positions = query_positions(rows, query_len, key_len)
        allowed = allowed & (torch.arange(key_len, device=rows.device) <= positions[:, None])
    if call.key_padding_mask is not None:
        allowed = allowed & ~call.key_padding_mask[:, None, None, :]
    return allowed


def visible_pairs(query_len: int, key_len: int, *, causal: bool) -> float:
    """Number of query-key pairs of one head; if causal, without keys later than their query."""
    if not causal:
        return float(query_len * key_len)
    # Row i sees max(0, i + 1 + key_len - query_len) keys.
    rows = min(query_len, key_len)
    return rows * (key_len - rows) + rows * (rows + 1) / 2


def distance_bias_of(rows: Tensor, query_len: int, key_len: int, distance_bias: Tensor) -> Tensor:
    """The bias of query rows on all keys, (heads, len(rows), key_len)."""
    keys = torch.arange(key_len, device=rows.device)
    return distance_bias[:, keys - rows[:, None] + query_len - 1]


def dot_products(query: Tensor, key: Tensor, rows: Tensor, scale: float) -> Tensor:
    """Scaled scores (batch, heads, len(rows), key_len), at least in float32."""
    dtype = compute_dtype(query.dtype)
    keys = expand_heads(key, query.shape[1]).to(dtype)
    return (query[:, :, rows].to(dtype) * scale) @ keys.transpose(-2, -1)


def group_means(key: Tensor, size: int, key_padding_mask: Tensor | None) -> Tensor:
    """Means over groups of `size` consecutive tokens without padding: (batch, heads, groups,
    channels). A group that contains only padding has mean 0."""
    batch, heads, key_len, channels = key.shape
    group = torch.arange(key_len, device=key.device) // size
    valid = key.new_ones(batch, key_len)
    if key_padding_mask is not None:
        valid = valid.masked_fill(key_padding_mask, 0)
    groups = int(group[-1]) + 1
    total = key.new_zeros(batch, heads, groups, channels).index_add(2, group, key)
    count = key.new_zeros(batch, groups).index_add(1, group, valid)
    return total / count.clamp(min=1)[:, None, :, None]


def masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys; a row without allowed keys is 0, with zero gradient."""
    allowed = allowed.expand_as(scores)
    empty = ~allowed.any(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(~(allowed | empty), -torch.inf), dim=-1)
    return weights.masked_fill(empty, 0)


def safe_total(total: Tensor) -> Tensor:
    """The sum of weights by which a row is divided. A sum that is 0, or so small that the gradient
    of the quotient would leave the range of the dtype, becomes infinity, which makes the row 0."""
    tiny = torch.finfo(total.dtype).tiny / torch.finfo(total.dtype).eps
    return torch.where(total > tiny, total, torch.inf)


def normalised(kernel: Tensor) -> Tensor:
    """Rows of a non-negative kernel divided by their sum; a row of zeros stays 0."""
    return kernel / safe_total(kernel.sum(-1, keepdim=True))


def biased_scores(query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
    """Scaled scores as `dot_products` gives them, with the distance bias of the call, if any."""
    scores = dot_products(query, key, rows, call.scale)
    if call.distance_bias is None:
        return scores
    bias = distance_bias_of(rows, query.shape[2], key.shape[2], call.distance_bias)
    return scores + bias.to(scores.dtype)


def softmax_weights(query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
    """Exact softmax attention weights of some query rows."""
    scores = biased_scores(query, key, rows, call)
    allowed = visible(rows, query.shape[2], key.shape[2], call)
    return masked_softmax(scores, allowed)
