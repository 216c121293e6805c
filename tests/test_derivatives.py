"""Derivatives beyond the first backward pass: correct, or refused with a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.testing import assert_close

import variants
from tests.contract.attentions import attentions, small_settings
from variants import REGISTRY, Attention, MultiHeadAttention, UnsupportedError, add_implementation
from variants.contract import added

REFUSED = "expected a first derivative; .*create_graph=True"
CPU = torch.device("cpu")


def implementations() -> list[Any]:
    """Every implementation that runs here and has a gradient."""
    found = []
    for name in sorted(REGISTRY):
        for word in ("auto", *REGISTRY[name].info.implementations[1:]):
            made = variants.create(name, **small_settings(name), implementation=word)
            if made.cannot_run(CPU) is None and word != "flex":
                found.append(pytest.param(made, id=f"{name}-{word}"))
    return found


def tensors(length: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 1, 2, length, 8, generator=generator, dtype=torch.float64)
    return [x.clone().requires_grad_() for x in drawn]


def call(attention: Attention, *inputs: Tensor, **options: Any) -> Tensor:
    return attention(*inputs, causal=attention.info.causal_choices[-1], **options)


def hessian_vector_product(loss: Callable[..., Tensor], inputs: list[Tensor]) -> Any:
    grads = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    product = sum((g * g.detach()).sum() for g in grads)
    return torch.autograd.grad(product, inputs)


def penalty(loss: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    (grad,) = torch.autograd.grad(loss(*inputs), inputs[:1], create_graph=True)
    (loss(*inputs) + grad.square().sum()).backward()


def functional_hvp(loss: Callable[..., Tensor], inputs: list[Tensor]) -> Any:
    own = tuple(x.detach() for x in inputs)
    return torch.autograd.functional.hvp(loss, own, own)


def functional_vhp(loss: Callable[..., Tensor], inputs: list[Tensor]) -> Any:
    own = tuple(x.detach() for x in inputs)
    return torch.autograd.functional.vhp(loss, own, own)


def backward(loss: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    loss(*inputs).backward(create_graph=True)


def nested(loss: Callable[..., Tensor], inputs: list[Tensor]) -> Any:
    own = [x.detach() for x in inputs]

    def squared(query: Tensor) -> Tensor:
        return torch.func.grad(lambda x: loss(x, *own[1:]))(query).square().sum()

    return torch.func.grad(squared)(own[0])


ROUTES = [hessian_vector_product, penalty, functional_hvp, functional_vhp, backward, nested]


@pytest.mark.parametrize("linear", [False, True], ids=["", "linear"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("attention", implementations())
def test_a_second_derivative_is_refused(
    attention: Attention, route: Callable[..., Any], linear: bool
) -> None:
    """A loss that is linear in the output is the hardest case, because its gradient with respect to
    the output has no graph."""

    def loss(*inputs: Tensor) -> Tensor:
        out = call(attention, *inputs)
        return out.sum() if linear else out.square().sum()

    error: type[Exception] = UnsupportedError
    if attention.traceable:
        error = RuntimeError  # torch's own kernel raises when it is differentiated again
        route = hessian_vector_product if route is backward else route
    with pytest.raises(error, match=None if attention.traceable else REFUSED):
        route(loss, tensors())


@pytest.mark.parametrize("attention", attentions("small"))
def test_a_second_derivative_with_padding_or_of_learned_parameters(
    attention: Attention,
) -> None:
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, :3] = True
    inputs = tensors()
    learned = {n: x.double() for n, x in attention.init_parameters(2, 8).items()}
    learned = {name: x.requires_grad_() for name, x in learned.items()}
    for options in ({"key_padding_mask": mask}, {"parameters": learned} if learned else {}):
        wanted = list(learned.values()) if "parameters" in options else inputs
        out = call(attention, *inputs, **options).sum()
        with pytest.raises(UnsupportedError, match=REFUSED):
            torch.autograd.grad(out, wanted, create_graph=True)


@pytest.mark.parametrize("name", ["full", "sliding_window", "linear", "lsh"])
def test_a_second_derivative_of_the_parameters_of_a_layer(name: str) -> None:
    layer = MultiHeadAttention(16, 2, attention=name, position="rotary").double()
    loss = layer(torch.randn(1, 12, 16, dtype=torch.float64), causal=True).square().sum()
    with pytest.raises(UnsupportedError, match=f"{name}: {REFUSED}"):
        torch.autograd.grad(loss, layer.parameters(), create_graph=True)


def test_a_second_derivative_of_an_added_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Tensor) -> Tensor:
            return query * 2

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * 2

    own = dict(added.ADDED)
    for module in ("added", "registry", "variant"):
        monkeypatch.setattr(f"variants.contract.{module}.ADDED", own)
    add_implementation(
        "full", "mine", attend=lambda attention, query, key, value, **call: Kernel.apply(query)
    )
    inputs = tensors()
    out = variants.create("full", implementation="mine")(*inputs).sum()
    with pytest.raises(UnsupportedError, match=REFUSED):
        torch.autograd.grad(out, inputs[:1], create_graph=True)


@pytest.mark.parametrize("attention", attentions("small"))
def test_the_definition_has_second_derivatives(attention: Attention) -> None:
    """As the message states. Checked by finite differences of the kernel's gradient."""
    query, key, value = tensors(12)
    causal = attention.info.causal_choices[-1]
    direction = torch.randn_like(value)
    if attention.info.name in ("lsh", "top_k", "block_top_k"):
        direction = direction * 1e-3  # the choice must not change with a small step

    def gradient(shift: float) -> Tensor:
        moved = (value + shift * direction).detach().requires_grad_()
        out = attention(query.detach(), key.detach(), moved, causal=causal)
        return torch.autograd.grad(out.pow(3).sum(), moved)[0]

    out = attention.weights(query, key, causal=causal) @ value
    (grad,) = torch.autograd.grad(out.pow(3).sum(), value, create_graph=True)
    (found,) = torch.autograd.grad(grad, value, direction)
    step = 1e-5
    expected = (gradient(step) - gradient(-step)) / (2 * step)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", attentions("small"))
def test_first_derivatives_by_torch_func(attention: Attention) -> None:
    inputs = tensors()
    out = call(attention, *inputs)
    weight = torch.randn_like(out)
    expected = torch.autograd.grad(out, inputs, weight)
    own = tuple(x.detach() for x in inputs)
    found = torch.func.grad(lambda *x: (call(attention, *x) * weight).sum(), argnums=(0, 1, 2))(
        *own
    )
    assert_close(found, expected)
    value, back = torch.func.vjp(lambda *x: call(attention, *x), *own)
    assert_close(value, out.detach())
    assert_close(back(weight), expected)


@pytest.mark.parametrize("attention", attentions("small"))
def test_several_gradients_at_a_time_are_refused(attention: Attention) -> None:
    inputs = tensors()
    out = call(attention, *inputs)
    with pytest.raises(UnsupportedError, match="Join that dimension with the batch"):
        torch.autograd.grad(out, inputs, torch.stack([out, out]), is_grads_batched=True)


@pytest.mark.parametrize("attention", attentions("small"))
def test_forward_mode_is_refused(attention: Attention) -> None:
    """torch.func returned a tangent of 0 before."""
    query, key, value = (x.detach() for x in tensors())
    refused = pytest.raises(UnsupportedError, match="expected tensors without a tangent")
    with refused:
        torch.func.jvp(lambda x: call(attention, x, key, value), (query,), (query,))
    for place in range(3):
        inputs = [query, key, value]
        with forward_ad.dual_level():
            inputs[place] = forward_ad.make_dual(inputs[place], torch.ones_like(query))
            with refused:
                call(attention, *inputs)
