"""Outputs and gradients of a kernel and of the dense definition of its variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.shapes import Shape
from variants import Attention


def for_each_head(tensor: Tensor, heads: int) -> Tensor:
    """Keys or values for each query head: query head h reads key head h // (heads // kv_heads)."""
    group = heads // tensor.shape[1]
    return torch.stack([tensor[:, head // group] for head in range(heads)], dim=1)


def own_answer(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, **call: Any
) -> Tensor:
    """The output of the variant's own dense definition."""
    return attention.weights(query, key, **call) @ for_each_head(value, query.shape[1])


def with_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], cotangent: Tensor | None = None
) -> list[Tensor]:
    """The output of `function(*inputs)`, then the gradient of each input."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*leaves)
    if cotangent is None:
        generator = torch.Generator().manual_seed(2)
        cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad(
        out, leaves, cotangent.to(out), allow_unused=True, materialize_grads=True
    )
    return [out.detach(), *grads]


def assert_same_answers(
    attention: Attention, reference: Attention, shape: Shape, call: dict[str, Any]
) -> None:
    """Compare output and gradients of the kernel of `attention` with the definition of `reference`.
    A `distance_bias` in the call has a gradient too, and it is compared."""
    query, key, value = shape.tensors()
    call = {"scale": shape.scale, **call}
    if "backward" not in attention.info.supports:
        assert_close(
            attention(query, key, value, **call),
            own_answer(reference, query, key, value, **call),
        )
        return
    learned = attention.init_parameters(shape.heads, shape.head_dim)
    names = list(learned)
    biases = [] if call.get("distance_bias") is None else [call["distance_bias"]]

    def with_parameters(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(query: Tensor, key: Tensor, value: Tensor, *tensors: Tensor) -> Tensor:
            given = {**call, "parameters": None}
            if names:
                given["parameters"] = dict(zip(names, tensors, strict=False))
            if biases:
                given["distance_bias"] = tensors[-1]
            return function(query, key, value, **given)

        return run

    inputs = (query, key, value, *(tensor.double() for tensor in learned.values()), *biases)
    found = with_gradients(with_parameters(attention), inputs)
    expected = with_gradients(
        with_parameters(lambda *tensors, **call: own_answer(reference, *tensors, **call)), inputs
    )
    labels = ["output", "query gradient", "key gradient", "value gradient", *names]
    labels += ["bias gradient"] * len(biases)
    for label, mine, right in zip(labels, found, expected, strict=True):
        assert_close(mine, right, msg=lambda text, label=label: f"{label} ({call}): {text}")
