"""Exact softmax attention over all keys, by torch's fused kernel where it can do the job alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from variants.contract.dense import compute_dtype
from variants.engines import blocks
from variants.engines.matmul import fast_float32

FAST_FROM = 256  # keys; with fewer the route's own cost is several times that of the product


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    key_padding_mask: Tensor | None,
    scale: float,
    distance_bias: Tensor | None = None,
    fast: bool | None = None,
) -> Tensor:
    """Full attention; shapes as in `Attention.__call__`.

    The fused kernel takes the unmasked and the plain causal case; other masks and a bias would be
    quadratic for it, and go to our own tiles. `fast` lets a CPU widen the half types to float32,
    and take the fast route for its products (`matmul.fast_float32`); None means if `fast_pays`. A
    GPU knows no difference.
    """
    unlike = causal and query.shape[2] != key.shape[2]
    if key_padding_mask is not None or distance_bias is not None or unlike:
        return blocks.full(
            query,
            key,
            value,
            causal=causal,
            key_padding_mask=key_padding_mask,
            scale=scale,
            distance_bias=distance_bias,
        )
    if causal and scale <= 0:
        # The kernel hides scores before it scales them: they would turn up, or be no number.
        query, scale = query * scale, 1.0
    fast = fast_pays(key) if fast is None else fast
    if fast and query.device.type == "cpu" and query.dtype is not torch.float64:
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))):
            wide = compute_dtype(query.dtype)
            with fast_float32(query.device):
                return _fused(query.to(wide), key.to(wide), value.to(wide), causal, scale).to(
                    query.dtype
                )
        out: Tensor = _Fast.apply(query, key, value, causal, scale)
        return out
    dtype = query.dtype
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


class _Fast(torch.autograd.Function):
    """The fused kernel with the fast route for its products, in the backward pass too."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
    ) -> Tensor:
        wide = compute_dtype(query.dtype)
        leaves = [
            x.detach().to(wide).requires_grad_(needed)
            for x, needed in zip((query, key, value), ctx.needs_input_grad, strict=False)
        ]
        with fast_float32(query.device), torch.enable_grad():
            out = _fused(leaves[0], leaves[1], leaves[2], causal, scale)
        ctx.graph = leaves, out
        return out.detach().to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        leaves, out = ctx.graph
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        with fast_float32(grad_out.device):
            found = iter(
                torch.autograd.grad(out, wanted, grad_out.to(out.dtype), retain_graph=True)
            )
        return (
            *(next(found).to(grad_out.dtype) if leaf.requires_grad else None for leaf in leaves),
            None,
            None,
        )
