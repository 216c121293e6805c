"""Queries with additional channels for their positions, as in Transformer-XL, by Triton kernels.

Dai et al., Transformer-XL, 2019, https://arxiv.org/abs/1901.02860. The product of such a query with
the sinusoids of a key is the position term of the score.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.modes import untraced
from variants.contract.strides import readable
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.tile_widths import padded_width

ROWS = 64


def relative_queries(
    query: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    position_projection: Tensor,
    waves: Tensor,
    offset: int,
) -> Tensor:
    """Queries (batch, heads, query_len, head_dim + num_waves) in the dtype of `query`.

    Args:
        query: (batch, heads, query_len, head_dim).
        content_bias, position_bias: float32 (heads, head_dim).
        position_projection: float32 (heads, num_waves, head_dim).
        waves: sines, then cosines of each position, float32 (key_len, num_waves).
        offset: position of the first query.

    The gradients of the learned tensors are added in an order that is not fixed.
    """
    learned = (x.contiguous() for x in (content_bias, position_bias, position_projection))
    out: Tensor = untraced(_RelativeQueries.apply)(query, *learned, waves, offset)
    return out


class _RelativeQueries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        content_bias: Tensor,
        position_bias: Tensor,
        position_projection: Tensor,
        waves: Tensor,
        offset: int,
    ) -> Tensor:
        query = readable(query)
        ctx.save_for_backward(query, position_bias, position_projection, waves)
        ctx.offset = offset
        out: Tensor = _forward(
            query, content_bias, position_bias, position_projection, waves, offset
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, position_bias, position_projection, waves = ctx.saved_tensors
        summed = [
            torch.zeros_like(x, dtype=torch.float32)
            for x in (position_bias, position_bias, position_projection)
        ]
        grad_query = _backward(
            query,
            position_bias,
            position_projection,
            waves,
            grads[0].contiguous(),
            *summed,
            ctx.offset,
        )
        return grad_query, *summed, None, None


@operation(
    "relative_queries(Tensor query, Tensor content_bias, Tensor position_bias, "
    "Tensor projection, Tensor waves, int offset) -> Tensor",
    lambda query, *rest: query.new_empty(*query.shape[:3], query.shape[3] + rest[2].shape[1]),
)
def _forward(
    query: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    projection: Tensor,
    waves: Tensor,
    offset: int,
) -> Tensor:
    from variants.engines.gpu.listed import relative_queries_kernels

    batch, heads, query_len, head_dim = query.shape
    out = query.new_empty(batch, heads, query_len, head_dim + projection.shape[1])
    launch(
        relative_queries_kernels.forward,
        (-(-query_len // ROWS), batch * heads),
        *(query, content_bias, position_bias, projection, waves, out),
        *(query_len, offset, heads, *query.stride()[:3]),
        **_constants(head_dim, projection.shape[1], query.dtype),
    )
    return out


@operation(
    "relative_queries_backward(Tensor query, Tensor position_bias, Tensor projection, "
    "Tensor waves, Tensor grad, Tensor(a!) grad_content, Tensor(b!) grad_position, "
    "Tensor(c!) grad_projection, int offset) -> Tensor",
    lambda query, *rest: torch.empty_like(query, memory_format=torch.contiguous_format),
)
def _backward(
    query: Tensor,
    position_bias: Tensor,
    projection: Tensor,
    waves: Tensor,
    grad: Tensor,
    grad_content: Tensor,
    grad_position: Tensor,
    grad_projection: Tensor,
    offset: int,
) -> Tensor:
    from variants.engines.gpu.listed import relative_queries_kernels

    batch, heads, query_len, head_dim = query.shape
    found = torch.empty_like(query, memory_format=torch.contiguous_format)
    launch(
        relative_queries_kernels.backward,
        (-(-query_len // ROWS), batch * heads),
        *(query, position_bias, projection, waves, grad),
        *(found, grad_content, grad_position, grad_projection),
        *(query_len, offset, heads, *query.stride()[:3]),
        **_constants(head_dim, projection.shape[1], query.dtype),
    )
    return found


def _constants(head_dim: int, num_waves: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "CHANNELS": head_dim,
        "WIDTH": padded_width(head_dim),
        "HALF": num_waves // 2,
        "HALF_WIDTH": padded_width(num_waves // 2),
        "ROWS": ROWS,
        # TF32 numbers are cut to 10 bits, which is more than bfloat16 has.
        "PRECISION": "tf32" if dtype is torch.bfloat16 else "tf32x3",
        "num_warps": 8,
    }
