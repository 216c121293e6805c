"""Exact softmax over visible keys, by torch's fused kernel, some query rows at a time.

Masks exist for a block of rows only, so memory stays linear in the number of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from variants.contract.dense import compute_dtype, visible

ROWS = 128  # scores of a block stay in the cache; larger ones made the plain form twice as slow


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """torch SDPA; float16 on a CPU goes through float32, as that has no fast half product."""
    dtype = query.dtype
    if query.device.type == "cpu" and dtype is torch.float16:
        query, key, value = (x.to(compute_dtype(dtype)) for x in (query, key, value))
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out.to(dtype)


def masked_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor,
    *,
    causal: bool,
    key_padding_mask: Tensor | None,
    scale: float,
    pattern_mask: Callable[[Tensor], Tensor] | None = None,
    softmax: Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor] = fused,
) -> Tensor:
    """Attention of consecutive query `rows`, through a mask for at most `ROWS` of them at once.

    `pattern_mask` maps rows to a bool (heads or 1, rows, key_len) mask of what may be seen.
    Returns (batch, heads, len(rows), head_dim).
    """
    query_len, key_len = query.shape[2], key.shape[2]

    def attend_block(query: Tensor, key: Tensor, value: Tensor, block: Tensor) -> Tensor:
        start, stop = int(block[0]), int(block[-1]) + 1
        # A causal block needs no key after its last row.
        keys = max(1, min(key_len, stop + key_len - query_len)) if causal else key_len
        mask = visible(block, query_len, key_len, causal=causal, key_padding_mask=key_padding_mask)
        if pattern_mask is not None:
            mask = mask & pattern_mask(block)
        mask = mask[..., :keys]
        empty = ~mask.any(-1, keepdim=True)
        out = softmax(
            query[:, :, start:stop], key[:, :, :keys], value[:, :, :keys], mask | empty, scale
        )
        return out.masked_fill(empty, 0)

    blocks = rows.split(ROWS)
    if len(blocks) == 1:
        return attend_block(query, key, value, rows)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        # Kept for the backward pass, the masks of all blocks would be quadratic.
        again = partial(checkpoint, attend_block, use_reentrant=False, preserve_rng_state=False)
        outputs = [again(query, key, value, block) for block in blocks]
    else:
        outputs = [attend_block(query, key, value, block) for block in blocks]
    return torch.cat(outputs, dim=2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    key_padding_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Full attention; the unmasked and the plain causal case go to the kernel whole."""
    square = query.shape[2] == key.shape[2]
    if key_padding_mask is None and (not causal or square):
        dtype = query.dtype
        if query.device.type == "cpu" and dtype is torch.float16:
            query, key, value = (x.float() for x in (query, key, value))
        return scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=causal,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        ).to(dtype)
    rows = torch.arange(query.shape[2], device=query.device)
    return masked_rows(
        query, key, value, rows, causal=causal, key_padding_mask=key_padding_mask, scale=scale
    )
