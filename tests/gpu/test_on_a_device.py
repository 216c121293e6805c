"""Triton kernels on a GPU, against the dense definitions: output and gradients of every variant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import variants
from variants import REGISTRY, UnsupportedError

CUDA = torch.device("cuda")
NAMES = sorted(name for name, cls in REGISTRY.items() if "triton" in cls.info.implementations)
FUSED = [*NAMES, "chunked_state rule=gated_delta", "lsh num_hashes=4"]
# Norm of the error over the norm of the exact result: a few roundings of the dtype.
LIMITS = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 3e-5}


def error(found: Tensor, exact: Tensor) -> float:
    assert found.isfinite().all()
    difference = (found.detach().double() - exact.detach()).norm()
    return float(difference / exact.detach().norm().clamp(min=1e-30))


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("text", FUSED)
def test_outputs_and_gradients(text: str, dtype: torch.dtype, head_dim: int) -> None:
    attention = variants.parse(f"{text} implementation=triton")
    causal = attention.info.causal_choices[-1]
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(2, heads, 700, head_dim, generator=generator).to(CUDA, dtype).requires_grad_()
        for heads in (4, 2, 2)
    ]
    padding = torch.zeros(2, 700, dtype=torch.bool, device=CUDA)
    padding[0, -30:] = True
    call = {"causal": causal, "key_padding_mask": padding}
    try:
        out = attention(*leaves, **call)
    except UnsupportedError as refused:
        pytest.skip(str(refused))
    weight = torch.randn(out.shape, generator=generator).to(CUDA, dtype)
    grads = torch.autograd.grad(out, leaves, weight)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    values = wide[2].masked_fill(padding[:, None, :, None], 0).repeat_interleave(2, dim=1)
    exact = attention.weights(*wide[:2], **call) @ values
    exact_grads = torch.autograd.grad(exact, wide, weight.double())
    assert error(out, exact) < LIMITS[dtype]
    for word, found, right in zip(("query", "key", "value"), grads, exact_grads, strict=True):
        assert error(found, right) < 3 * LIMITS[dtype], word


@pytest.mark.gpu
@pytest.mark.parametrize("text", FUSED)
def test_a_second_call_gives_the_same_bits(text: str) -> None:
    """A race between warps or programs shows as a difference."""
    attention = variants.parse(f"{text} implementation=triton")
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, 4, 4096, 64, generator=generator).to(CUDA, torch.bfloat16) for _ in range(3)
    ]
    causal = attention.info.causal_choices[-1]
    first = attention(*inputs, causal=causal)
    for _ in range(5):
        assert torch.equal(attention(*inputs, causal=causal), first)
