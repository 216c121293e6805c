"""Additive attention on a GPU: one kernel forward, three backward, and no score in memory.

The work is quadratic, and every pair of a query and a key needs an exponential for each hidden
unit, so this is a reference method and not a fast one. The backward pass is deterministic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.modes import untraced
from variants.contract.strides import readable
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.selected.gathered_operations import row_delta
from variants.engines.gpu.tile_widths import padded_width

ROWS, KEYS = 64, 64

_INPUTS = "Tensor query_units, Tensor key_units, Tensor value, Tensor vector, Tensor? hidden"


def attend(
    query_units: Tensor,
    key_units: Tensor,
    value: Tensor,
    vector: Tensor,
    hidden: Tensor | None,
    causal: bool,
) -> Tensor:
    """Softmax attention (batch, heads, query_len, head_dim) in the dtype of the values.

    Args:
        query_units, key_units: projected queries and keys, float32 (batch, heads, units, len).
        value: (batch, kv_heads, key_len, head_dim).
        vector: float32 (heads, units), the weights of the units.
        hidden: bool (batch, key_len), keys that no query sees.
    """
    value = readable(value)
    whole = query_units.contiguous(), key_units.contiguous(), value, vector.contiguous()
    hidden = None if hidden is None else hidden.contiguous()
    out: Tensor = untraced(_Additive.apply)(*whole, hidden, causal)
    return out


class _Additive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        out, lse = _forward(*inputs)
        ctx.save_for_backward(*inputs[:5], out, lse)
        ctx.causal = inputs[5]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_out = grads[0]
        if grad_out.stride(-1) != 1:
            grad_out = grad_out.contiguous()
        *inputs, out, lse = ctx.saved_tensors
        held = grad_out, lse, row_delta(out, grad_out), ctx.causal
        grad_queries, shares = _query_gradient(*inputs, *held)
        grad_keys, grad_value = _key_gradient(*inputs, *held)
        value = inputs[2]
        if grad_value.shape != value.shape:
            parts = grad_value.unflatten(1, (value.shape[1], -1))
            grad_value = parts.sum(2).to(value.dtype)
        return grad_queries, grad_keys, grad_value, shares.sum((0, 2)), None, None


def _forward_shapes(query_units: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    batch, heads, _, query_len = query_units.shape
    value = arguments[1]
    out = value.new_empty(batch, heads, query_len, value.shape[3])
    return out, query_units.new_empty(batch, heads, query_len)


def _sizes(query_units: Tensor, key_units: Tensor, value: Tensor) -> tuple[int, ...]:
    """heads, group, query_len, key_len, head_dim, units."""
    _, heads, units, query_len = query_units.shape
    group = heads // value.shape[1]
    return heads, group, query_len, key_units.shape[3], value.shape[3], units


def _constants(value: Tensor, hidden: Tensor | None, causal: bool) -> dict[str, Any]:
    channels = padded_width(value.shape[-1])
    return {
        "CAUSAL": causal,
        "PADDED": hidden is not None,
        "PRECISION": "tf32x3" if value.dtype is torch.float32 else "tf32",
        "ROWS": ROWS,
        "KEYS": KEYS if channels * value.element_size() <= 256 else KEYS // 2,
        "CHANNELS": channels,
        "num_warps": 8 if channels * value.element_size() > 128 else 4,
    }


def _pointers(*inputs: Any) -> tuple[Any, ...]:
    hidden = inputs[4]
    return *inputs[:4], inputs[3] if hidden is None else hidden.view(torch.uint8)


@operation(f"additive_forward({_INPUTS}, bool causal) -> (Tensor out, Tensor lse)", _forward_shapes)
def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.additive_softmax_kernels import additive_forward_kernel

    query_units, _, value, _, hidden, causal = arguments
    out, lse = _forward_shapes(*arguments)
    launch(
        additive_forward_kernel,
        (-(-query_units.shape[3] // ROWS), lse.shape[0] * lse.shape[1]),
        *(*_pointers(*arguments[:5]), out, lse, *_sizes(*arguments[:3]), *value.stride()[:3]),
        **_constants(value, hidden, causal),
    )
    return out, lse


def _query_shapes(query_units: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    batch, heads, units, query_len = query_units.shape
    shares = query_units.new_empty(batch, heads, -(-query_len // ROWS), units)
    return torch.empty_like(query_units), shares


_GRADS = "Tensor grad_out, Tensor lse, Tensor delta, bool causal"


@operation(
    f"additive_query_gradient({_INPUTS}, {_GRADS}) -> (Tensor grad_units, Tensor grad_vector)",
    _query_shapes,
)
def _query_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.additive_softmax_kernels import additive_query_gradient_kernel

    query_units, _, value, _, hidden, grad_out, lse, delta, causal = arguments
    found = _query_shapes(*arguments)
    tiles = found[1].shape[2]
    launch(
        additive_query_gradient_kernel,
        (tiles, lse.shape[0] * lse.shape[1]),
        *(*_pointers(*arguments[:5]), grad_out, lse, delta, *found),
        *(*_sizes(*arguments[:3]), tiles, *value.stride()[:3], *grad_out.stride()[:3]),
        **_constants(value, hidden, causal),
        UNITS=padded_width(query_units.shape[2]),
    )
    return found


def _key_shapes(query_units: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    key_units, value = arguments[:2]
    shape = *key_units.shape[:2], *value.shape[2:]
    dtype = value.dtype if value.shape == shape else torch.float32
    return torch.empty_like(key_units), value.new_empty(shape, dtype=dtype)


@operation(
    f"additive_key_gradient({_INPUTS}, {_GRADS}) -> (Tensor grad_units, Tensor grad_value)",
    _key_shapes,
)
def _key_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.additive_softmax_kernels import additive_key_gradient_kernel

    query_units, key_units, value, _, hidden, grad_out, lse, delta, causal = arguments
    found = _key_shapes(*arguments)
    constants = _constants(value, hidden, causal)
    launch(
        additive_key_gradient_kernel,
        (-(-key_units.shape[3] // constants["KEYS"]), lse.shape[0] * lse.shape[1]),
        *(*_pointers(*arguments[:5]), grad_out, lse, delta, *found),
        *(*_sizes(*arguments[:3]), *value.stride()[:3], *grad_out.stride()[:3]),
        **constants,
        UNITS=padded_width(query_units.shape[2]),
    )
    return found
