"""The approximate pseudo-inverse of a softmax matrix between landmarks, in one launch.

A step of the paper's iteration for the inverse Z of A, in terms of the rest R = I - A Z:

    Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4  =  Z + Z (R + R (R + R R / 4))

Xiong et al., Nyströmformer, 2021, https://arxiv.org/abs/2102.03902
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.tile_widths import padded_width

# Most landmarks, and channels of a head; larger matrices do not fit the registers of a program.
LARGEST, WIDEST = 64, 128
ARGUMENTS = "Tensor queries, Tensor keys, Tensor hidden, float scale, int iterations"


def fits(num_landmarks: int, channels: int) -> bool:
    """Whether the kernel computes the inverse for these numbers."""
    return num_landmarks <= LARGEST and channels <= WIDEST


def inverse(queries: Tensor, keys: Tensor, hidden: Tensor, scale: float, iterations: int) -> Tensor:
    """A⁺ (batch, heads, columns, rows) in float32.

    Args:
        queries: (batch, heads, rows, head_dim) in float32, contiguous.
        keys: (batch, kv_heads, columns, head_dim) in float32, contiguous.
        hidden: bool (batch, columns), True = no key.
    """
    found: Tensor = _Inverse.apply(queries, keys, hidden, scale, iterations)
    return found


def _size(queries: Tensor, keys: Tensor) -> int:
    return padded_width(max(queries.shape[2], keys.shape[2]))


def _numbers(queries: Tensor, keys: Tensor, scale: float) -> tuple[float, ...]:
    return queries.shape[1], keys.shape[1], queries.shape[2], keys.shape[2], keys.shape[3], scale


def _constants(queries: Tensor, keys: Tensor, iterations: int) -> dict[str, Any]:
    return {
        "ITERATIONS": iterations,
        "PRECISION": "tf32x3",
        "SIZE": _size(queries, keys),
        "CHANNELS": padded_width(keys.shape[3]),
        "num_warps": 8,
        "num_stages": 1,
    }


def _steps(queries: Tensor, keys: Tensor, hidden: Tensor, scale: float, iterations: int) -> Tensor:
    size = _size(queries, keys)
    return queries.new_empty(*queries.shape[:2], iterations + 1, size, size)


@operation(f"landmark_inverse({ARGUMENTS}) -> Tensor", _steps)
def invert(queries: Tensor, keys: Tensor, hidden: Tensor, scale: float, iterations: int) -> Tensor:
    """The inverse after each number of iterations from 0 on, (batch, heads, iterations + 1, size,
    size); zeros fill it up to `size` rows and columns."""
    from variants.engines.gpu.landmark_inverse_kernels import invert as kernel

    found = _steps(queries, keys, hidden, scale, iterations)
    launch(
        kernel,
        (queries.shape[0] * queries.shape[1],),
        *(queries, keys, hidden.view(torch.uint8), found, *_numbers(queries, keys, scale)),
        **_constants(queries, keys, iterations),
    )
    return found


def _gradients(
    queries: Tensor,
    keys: Tensor,
    hidden: Tensor,
    scale: float,
    iterations: int,
    steps: Tensor,
    grad: Tensor,
) -> list[Tensor]:
    shape = *queries.shape[:2], *keys.shape[2:]
    return [torch.empty_like(queries), keys.new_empty(shape)]


@operation(
    f"landmark_inverse_gradient({ARGUMENTS}, Tensor steps, Tensor grad) -> Tensor[]", _gradients
)
def invert_gradient(
    queries: Tensor,
    keys: Tensor,
    hidden: Tensor,
    scale: float,
    iterations: int,
    steps: Tensor,
    grad: Tensor,
) -> list[Tensor]:
    """Gradients of queries and of keys (batch, heads, columns, head_dim), for each query head."""
    from variants.engines.gpu.landmark_inverse_kernels import invert_gradient as kernel

    found = _gradients(queries, keys, hidden, scale, iterations, steps, grad)
    launch(
        kernel,
        (queries.shape[0] * queries.shape[1],),
        *(queries, keys, hidden.view(torch.uint8), steps, grad, *found),
        *_numbers(queries, keys, scale),
        **_constants(queries, keys, iterations),
    )
    return found


class _Inverse(torch.autograd.Function):
    """Keeps the inverse after each iteration: a few small matrices."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, hidden: Tensor, scale: float, iterations: int
    ) -> Tensor:
        steps = invert(queries, keys, hidden, scale, iterations)
        ctx.save_for_backward(queries, keys, hidden, steps)
        ctx.settings = scale, iterations
        found: Tensor = steps[:, :, -1, : keys.shape[2], : queries.shape[2]]
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        queries, keys, hidden, steps = ctx.saved_tensors
        grad_queries, grad_keys = invert_gradient(
            queries, keys, hidden, *ctx.settings, steps, grads[0].contiguous()
        )
        if grad_keys.shape != keys.shape:
            grad_keys = grad_keys.unflatten(1, (keys.shape[1], -1)).sum(2)
        return grad_queries, grad_keys, None, None, None
