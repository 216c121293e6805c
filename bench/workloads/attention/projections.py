"""The timed call of a layer: attention with input and output projections."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.schema.case import Case
from variants import Attention, UnsupportedError
from variants.layer import MultiHeadAttention


def closure(attention: Attention, case: Case) -> Callable[[], Tensor]:
    """A call of the layer on random hidden states (batch, seq_len, heads * head_dim).

    The call returns the output of the layer. With direction `forward_backward` it also computes the
    gradients of the hidden states and of all parameters. UnsupportedError if the layer is not
    possible.
    """
    if case.seq_len != case.key_len:
        raise UnsupportedError(
            "a layer with projections is measured on self-attention: seq_len must equal key_len; "
            f"got {case.seq_len} and {case.key_len}"
        )
    layer, hidden = _layer(attention, case), _hidden(case)
    if case.direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                out: Tensor = layer(hidden, causal=case.causal)
                return out

        return forward
    hidden.requires_grad_()
    leaves = (hidden, *layer.parameters())
    grad = torch.ones_like(hidden)

    def forward_backward() -> Tensor:
        out: Tensor = layer(hidden, causal=case.causal)
        torch.autograd.grad(out, leaves, grad, allow_unused=True)
        return out.detach()

    return forward_backward


def _layer(attention: Attention, case: Case) -> MultiHeadAttention:
    with torch.random.fork_rng(devices=[]):  # weights are drawn with the global random state
        torch.manual_seed(case.seed)
        try:
            layer = MultiHeadAttention(
                case.heads * case.head_dim,
                case.heads,
                case.kv_heads,
                attention=attention,
                shared_qk=case.projections == "shared",
            )
        except ValueError as error:
            raise UnsupportedError(str(error)) from error
    return layer.to(case.device, getattr(torch, case.dtype))


def _hidden(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(case.seed)
    noise = torch.randn(case.batch, case.seq_len, case.heads * case.head_dim, generator=generator)
    return noise.to(case.device, getattr(torch, case.dtype))
