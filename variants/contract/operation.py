"""The operation `variants::attention`, which represents a call in a traced program."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from variants.contract.call import Keywords
from variants.contract.parsing import parse
from variants.contract.traced import TracedCall


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
    made = parse(attention)
    parameters = None if names is None else dict(zip(names.split(), learned, strict=True))
    given = Keywords(causal, key_padding_mask, distance_bias, scale, parameters)
    return made.run(query, key, value, made.resolve(query, given))


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
    """Gradients of query, key, value, bias (empty if there is none) and the learned tensors."""
    found: list[Tensor | BaseException] = []

    # A new thread does not use the CUDA stream of this thread by itself.
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

    # Autograd is off inside an operation, in this thread only: a new thread computes gradients.
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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, learned, attention, causal, scale, names = inputs
    TracedCall.setup_context(ctx, ((attention, causal, scale, names), *tensors, *learned), output)


def _backward(ctx: Any, *grads: Tensor) -> Any:
    _, *own = TracedCall.backward(ctx, *grads)
    return (*own[:5], list(own[5:]), None, None, None, None)


_attention.register_autograd(_backward, setup_context=_setup_context)
