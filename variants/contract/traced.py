"""A call as one operation of a program that torch traces or transforms.

Kernels choose their work by lengths and keep tensors from call to call, neither of which belongs
into a traced program. So the program holds `variants::attention`, and the kernel runs when the
program does: on its data, at its lengths. To load an exported program, import `variants` first.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from variants.contract.checks import UnsupportedError
from variants.contract.modes import transforming
from variants.contract.parsing import parse

if TYPE_CHECKING:
    from variants.contract.attention import Attention, Parameters


def call(
    attention: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    key_padding_mask: Tensor | None,
    distance_bias: Tensor | None,
    scale: float | None,
    parameters: Parameters | None,
) -> Tensor:
    """The call of an attention as one operation, with its first derivative."""
    names = sorted(parameters or {})
    learned = [(parameters or {})[name] for name in names]
    tensors = (query, key, value, key_padding_mask, distance_bias, *learned)
    asked = (attention.text, causal, scale, " ".join(names) if parameters is not None else None)
    if transforming():
        if any(is_mapped(x) for x in tensors if x is not None):
            raise no_vmap(attention.info.name)
        forward_mode = forward_ad._current_level >= 0
        if forward_mode or any(x is not None and x.requires_grad for x in tensors):
            # The transforms of torch.func differentiate only a Function written for them.
            out: Tensor = (_Dual if forward_mode else _Call).apply(asked, *tensors)
            return out
    return _operation(asked, tensors)


Asked = tuple[str, bool, float | None, str | None]
"""The attention's text, `causal`, `scale`, and the names of what is learned; None for the seeded
ones."""


def _variant(asked: Asked) -> str:
    return asked[0].partition(" ")[0]


def _operation(asked: Asked, tensors: tuple[Tensor | None, ...]) -> Tensor:
    query, key, value, mask, bias, *learned = tensors
    out: Tensor = torch.ops.variants.attention(query, key, value, mask, bias, learned, *asked)
    return out


def _run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    distance_bias: Tensor | None,
    learned: list[Tensor],
    attention: str,
    causal: bool,
    scale: float | None,
    names: str | None,
) -> Tensor:
    return parse(attention).run(
        query,
        key,
        value,
        causal=causal,
        key_padding_mask=key_padding_mask,
        distance_bias=distance_bias,
        scale=scale,
        parameters=None if names is None else dict(zip(names.split(), learned, strict=True)),
    )


@torch.library.custom_op("variants::attention", mutates_args=())
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    distance_bias: Tensor | None,
    learned: list[Tensor],
    attention: str,
    causal: bool,
    scale: float | None,
    names: str | None,
) -> Tensor:
    out = _run(
        query, key, value, key_padding_mask, distance_bias, learned, attention, causal, scale, names
    )
    return out.contiguous()


@_attention.register_fake
def _(query: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.custom_op("variants::attention_backward", mutates_args=())
def _attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    distance_bias: Tensor | None,
    learned: list[Tensor],
    attention: str,
    causal: bool,
    scale: float | None,
    names: str | None,
) -> list[Tensor]:
    """Gradients of query, key, value, the bias (empty if there is none) and what is learned."""
    found: list[Tensor | BaseException] = []

    # Another thread would not know the stream of this one.
    on = torch.cuda.current_stream(query.device) if query.is_cuda else None

    def differentiate() -> None:
        try:
            if on is not None:
                torch.cuda.set_stream(on)
            inputs = [
                None if x is None else x.detach().requires_grad_()
                for x in (query, key, value, distance_bias, *learned)
            ]
            own = [x for x in inputs if x is not None]
            wanted = own[len(own) - len(learned) :]
            with torch.enable_grad():
                tensors = own[0], own[1], own[2], key_padding_mask, inputs[3]
                out = _run(*tensors, wanted, attention, causal, scale, names)
                grads = iter(torch.autograd.grad(out, own, grad_out, materialize_grads=True))
            found.extend(grad_out.new_zeros(0) if x is None else next(grads) for x in inputs)
        except BaseException as error:
            found.append(error)

    # Inside of an operation torch records no gradient; in a thread of its own it does.
    thread = threading.Thread(target=differentiate)
    thread.start()
    thread.join()
    if isinstance(found[-1], BaseException):
        raise found[-1]
    return [x.contiguous() for x in found if isinstance(x, Tensor)]


@_attention_backward.register_fake
def _(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    distance_bias: Tensor | None,
    learned: list[Tensor],
    attention: str,
    causal: bool,
    scale: float | None,
    names: str | None,
) -> list[Tensor]:
    bias = grad_out.new_zeros(0) if distance_bias is None else distance_bias
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format)
        for x in (query, key, value, bias, *learned)
    ]


class _Call(torch.autograd.Function):
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
        raise no_vmap(_variant(asked))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (None, *_Backward.apply(ctx.asked, grads[0], *ctx.saved_tensors))


class _Dual(_Call):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode(_variant(ctx.asked))


class _Backward(torch.autograd.Function):
    """The gradient, which has none."""

    @staticmethod
    def forward(asked: Asked, grad_out: Tensor, *tensors: Tensor | None) -> Any:
        query, key, value, mask, bias, *learned = tensors
        grads = torch.ops.variants.attention_backward(
            grad_out, query, key, value, mask, bias, learned, *asked
        )
        return (*grads[:3], None, None if bias is None else grads[3], *grads[4:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.variant = _variant(inputs[0])

    @staticmethod
    def vmap(info: Any, in_dims: Any, asked: Asked, *tensors: Any) -> Any:
        raise no_vmap(_variant(asked))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise no_second_derivative(ctx.variant)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, learned, attention, causal, scale, names = inputs
    _Call.setup_context(ctx, ((attention, causal, scale, names), *tensors, *learned), output)


def _backward(ctx: Any, *grads: Tensor) -> Any:
    _, *own = _Call.backward(ctx, *grads)
    return (*own[:5], list(own[5:]), None, None, None, None)


_attention.register_autograd(_backward, setup_context=_setup_context)


def no_second_derivative(name: str) -> UnsupportedError:
    """The error for a derivative of a derivative."""
    return UnsupportedError(
        f"{name}: expected a first derivative; got one that shall be differentiated again "
        "(create_graph=True, or nested transforms of torch.func), which the kernels do not have. "
        "For second derivatives, take `attention.weights(query, key, ...) @ value`"
    )


def is_mapped(tensor: Tensor) -> bool:
    """Whether torch.vmap hides a dimension of the tensor."""
    functorch = torch._C._functorch
    found: bool = functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    return found


def no_vmap(name: str) -> UnsupportedError:
    """The error for tensors that torch.vmap maps over."""
    return UnsupportedError(
        f"{name}: expected tensors (batch, heads, seq_len, head_dim); got some with a dimension "
        "that torch.vmap hides (jacrev and hessian of torch.func do too). Join that dimension with "
        "the batch"
    )


def no_forward_mode(name: str) -> UnsupportedError:
    """The error for tensors with a tangent."""
    return UnsupportedError(
        f"{name}: expected tensors without a tangent; got some of forward-mode differentiation "
        "(torch.func.jvp, torch.autograd.forward_ad), which the kernels do not have. Take "
        "`attention.weights(query, key, ...) @ value`, or a backward pass"
    )
