"""Exact softmax attention over all keys, by torch's fused kernel where it can do the job alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from variants.contract.call import Call
from variants.contract.definitions import compute_dtype
from variants.engines.primitives.precision import fast_float32
from variants.engines.tiled import tile_loop

# What scaled_dot_product_attention calls on a CPU. Called here by name, they can be run under a
# setting in the backward pass too, and keep nothing once that has run.
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

FAST_FROM = 256  # keys; with fewer the route's own cost is several times that of the product


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: Call,
    *,
    fast: bool | None = None,
) -> Tensor:
    """Full attention; shapes as in `Attention.__call__`.

    The fused kernel takes the unmasked and the plain causal case; other masks and a bias would be
    quadratic for it, and go to our own tiles. `fast` lets a CPU widen the half types to float32,
    and take the fast route for its products (`matmul.fast_float32`); None means if `fast_pays`. A
    GPU knows no difference.
    """
    unlike = call.causal and query.shape[2] != key.shape[2]
    if call.key_padding_mask is not None or call.distance_bias is not None or unlike:
        return tile_loop.full(
            query,
            key,
            value,
            call,
        )
    causal, scale = call.causal, call.scale
    if causal and scale <= 0:
        # The kernel hides scores before it scales them: they would turn up, or be no number.
        query, scale = query * scale, 1.0
    fast = fast_pays(key) if fast is None else fast
    dtype = query.dtype
    if fast and query.device.type == "cpu" and dtype is not torch.float64:
        query, key, value = (x.to(compute_dtype(dtype)) for x in (query, key, value))
        trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        if not trains:
            with fast_float32(query.device):
                return _fused(query, key, value, causal, scale).to(dtype)
        if _is_flash(query, key, value, causal, scale):
            out: Tensor = _Fast.apply(query, key, value, causal, scale)
            return out.to(dtype)
    if query.device.type == "cpu" and dtype is torch.float16:
        # This processor has no fast product of that type.
        query, key, value = (x.float() for x in (query, key, value))
    return _fused(query, key, value, causal, scale).to(dtype)


def fast_pays(key: Tensor) -> bool:
    """Whether products with so many keys are large enough for the fast route, by length alone."""
    return key.shape[2] >= FAST_FROM


def _fused(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tensor:
    return scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _is_flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> bool:
    """Whether torch would take its FlashAttention kernel, which it may be told not to take."""
    grouped = query.shape[1] != key.shape[1]
    choice = torch._fused_sdp_choice(
        query, key, value, None, 0.0, causal, scale=scale, enable_gqa=grouped
    )
    return choice == SDPBackend.FLASH_ATTENTION.value


class _Fast(torch.autograd.Function):
    """The fused kernel with the fast route for its products, in the backward pass too."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
    ) -> Tensor:
        with fast_float32(query.device):
            out, lse = _FLASH(query, key, value, 0.0, causal, scale=scale)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.settings = causal, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        causal, scale = ctx.settings
        with fast_float32(grads[0].device):
            found = _FLASH_BACKWARD(grads[0], *ctx.saved_tensors, 0.0, causal, scale=scale)
        return (*found, None, None)
