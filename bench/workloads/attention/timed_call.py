"""The call that is timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.inputs import Inputs
from bench.schema.case import Case
from bench.workloads.attention.decode_steps import Decoder
from variants import Attention


def timed_call(
    attention: Attention, given: Inputs, key: Tensor, case: Case
) -> Callable[[], Tensor]:
    """The timed call of an attention. It returns the output, also with a backward pass."""
    query, value = given.query, given.value
    if case.direction == "decode":
        return Decoder(attention, given, key)
    if case.direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return attention(query, key, value, causal=case.causal)

        return forward
    leaves, forward = differentiable_forward(attention, given, key, case)
    grad = torch.ones_like(query)

    def forward_backward() -> Tensor:
        out = forward()
        # A method may not use an input: a mean of all values does not depend on the query.
        torch.autograd.grad(out, leaves, grad, allow_unused=True)
        return out.detach()

    return forward_backward


def differentiable_forward(
    attention: Attention, given: Inputs, key: Tensor, case: Case
) -> tuple[tuple[Tensor, ...], Callable[[], Tensor]]:
    """Query, key and value that require gradients, and a forward pass on them."""
    shared = key is given.query
    query = given.query.detach().requires_grad_()
    key = query if shared else key.detach().requires_grad_()
    value = given.value.detach().requires_grad_()
    leaves = (query, value) if shared else (query, key, value)
    return leaves, lambda: attention(query, key, value, causal=case.causal)


def used_implementation(attention: Attention, case: Case, given: Inputs) -> str:
    """The name of the implementation that runs."""
    if case.direction == "decode":
        return "step" if attention.implementation == "auto" else attention.implementation
    return attention.choose_implementation(given.query, given.key)


def check_output(out: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise RuntimeError unless the output is a tensor of this shape and dtype."""
    if not isinstance(out, Tensor) or out.shape != shape or out.dtype != dtype:
        raise RuntimeError(
            f"the output must be a tensor {shape} of {dtype}; got "
            f"{tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__}"
        )
