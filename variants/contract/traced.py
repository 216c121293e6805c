"""A call inside a program that torch traces or transforms.

Kernels choose their work by sequence lengths and keep tensors for later calls. A traced program
must contain neither the choices nor the tensors. So the program contains the operation
`variants::attention` (`operation.py`), and the kernel runs when the program runs, with the data and
the lengths of that run. Import `variants` before you load an exported program.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from variants.contract.call import Keywords
from variants.contract.checks import UnsupportedError
from variants.contract.modes import transforming


def call(attention: str, query: Tensor, key: Tensor, value: Tensor, given: Keywords) -> Tensor:
    """A call as one operation, with its first derivative; `attention` is a `Variant.text`."""
    causal, mask, bias, scale, parameters = given
    names = sorted(parameters or {})
    learned = [(parameters or {})[name] for name in names]
    tensors = (query, key, value, mask, bias, *learned)
    asked = (attention, causal, scale, " ".join(names) if parameters is not None else None)
    if transforming():
        if any(is_mapped(x) for x in tensors if x is not None):
            raise no_vmap(_name(attention))
        forward_mode = forward_ad._current_level >= 0
        if forward_mode or any(x is not None and x.requires_grad for x in tensors):
            # torch.func differentiates only an autograd.Function with `setup_context`.
            out: Tensor = (DualTracedCall if forward_mode else TracedCall).apply(asked, *tensors)
            return out
    return _operation(asked, tensors)


Asked = tuple[str, bool, float | None, str | None]
"""The attention's text, `causal`, `scale`, and the names of the learned tensors; None for the
seeded tensors."""


def _name(attention: str) -> str:
    """The name of a variant from its text."""
    return attention.partition(" ")[0]


def _operation(asked: Asked, tensors: tuple[Tensor | None, ...]) -> Tensor:
    query, key, value, mask, bias, *learned = tensors
    out: Tensor = torch.ops.variants.attention(query, key, value, mask, bias, learned, *asked)
    return out


class TracedCall(torch.autograd.Function):
    """The operation with a gradient."""

    @staticmethod
    def forward(asked: Asked, *tensors: Tensor | None) -> Tensor:
        return _operation(asked, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.asked = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, asked: Asked, *tensors: Any) -> Any:
        raise no_vmap(_name(asked[0]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (None, *_TracedBackward.apply(ctx.asked, grads[0], *ctx.saved_tensors))


class DualTracedCall(TracedCall):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode(_name(ctx.asked[0]))


class _TracedBackward(torch.autograd.Function):
    """The gradient, which cannot be differentiated again."""

    @staticmethod
    def forward(asked: Asked, grad_out: Tensor, *tensors: Tensor | None) -> Any:
        query, key, value, mask, bias, *learned = tensors
        grads = torch.ops.variants.attention_backward(
            grad_out, query, key, value, mask, bias, learned, *asked
        )
        return (*grads[:3], None, None if bias is None else grads[3], *grads[4:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.variant = _name(inputs[0][0])

    @staticmethod
    def vmap(info: Any, in_dims: Any, asked: Asked, *tensors: Any) -> Any:
        raise no_vmap(_name(asked[0]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise no_second_derivative(ctx.variant)


def no_second_derivative(name: str) -> UnsupportedError:
    """The error for a derivative of a derivative."""
    return UnsupportedError(
        f"{name}: expected a first derivative; got a second derivative (create_graph=True, or "
        "nested transforms of torch.func), which the kernels do not support. For second "
        "derivatives, use `attention.weights(query, key, ...) @ value`"
    )


def is_mapped(tensor: Tensor) -> bool:
    """Whether torch.vmap hides a dimension of the tensor."""
    functorch = torch._C._functorch
    found: bool = functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    return found


def no_vmap(name: str) -> UnsupportedError:
    """The error for tensors that torch.vmap maps over."""
    return UnsupportedError(
        f"{name}: expected tensors (batch, heads, seq_len, head_dim); got tensors with a dimension "
        "that torch.vmap hides (jacrev and hessian of torch.func use vmap). Join that dimension "
        "with the batch"
    )


def no_forward_mode(name: str) -> UnsupportedError:
    """The error for tensors with a tangent."""
    return UnsupportedError(
        f"{name}: expected tensors without a tangent; got tensors of forward-mode differentiation "
        "(torch.func.jvp, torch.autograd.forward_ad), which the kernels do not support. Use "
        "`attention.weights(query, key, ...) @ value`, or a backward pass"
    )
