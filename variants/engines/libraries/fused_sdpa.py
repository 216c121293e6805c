"""Exact softmax attention over all keys, by torch's fused kernel if it supports the call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from variants.contract.call import Call
from variants.contract.definitions import compute_dtype
from variants.contract.device import on_gpu
from variants.engines.gpu import launches
from variants.engines.gpu.listed import whole_softmax
from variants.engines.tiled import tile_loop

WIDENED_FROM = 256  # keys; with fewer keys, converting half types to float32 is not faster


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: Call,
    *,
    widen: bool | None = None,
) -> Tensor:
    """Full attention; shapes as in `Attention.__call__`.

    torch's fused kernel computes calls without mask and plain causal calls. It would need quadratic
    memory for other masks and for a bias, so `tile_loop` computes such calls. If `widen`, a CPU
    computes half types in float32; None means the result of `widening_pays`. A GPU ignores `widen`.
    """
    unlike = call.causal and query.shape[2] != key.shape[2]
    if call.key_padding_mask is not None or call.distance_bias is not None or unlike:
        if launches.preferred(query):
            return whole_softmax.attend(query, key, value, call)
        return tile_loop.full(query, key, value, call)
    causal, scale = call.causal, call.scale
    if causal and scale <= 0:
        # The kernel hides scores before it scales them: hidden keys would get a weight, or NaN.
        query, scale = query * scale, 1.0
    dtype = query.dtype
    if not on_gpu(query.device) and dtype is not torch.float64:
        widen = widening_pays(key) if widen is None else widen
        # A CPU has no fast float16 products.
        if widen or dtype is torch.float16:
            query, key, value = (x.to(compute_dtype(dtype)) for x in (query, key, value))
    return _fused(query, key, value, causal, scale).to(dtype)


def widening_pays(key: Tensor) -> bool:
    """Whether there are enough keys to make float32 faster than half types on a CPU."""
    return key.shape[2] >= WIDENED_FROM


def _fused(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tensor:
    return scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
