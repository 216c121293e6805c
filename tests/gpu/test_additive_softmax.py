"""Fused additive attention, against its dense definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from variants.contract.device import pretended_gpu

pytestmark = pytest.mark.interpreted

UNITS = 3
# batch, heads, kv_heads, query_len, key_len, head_dim
SHAPES = ((2, 2, 1, 70, 70, 6), (1, 2, 2, 20, 90, 16), (1, 2, 1, 90, 50, 8))


def assert_near(found: Tensor, expected: Tensor, limit: float) -> None:
    assert bool(found.isfinite().all())
    assert float((found.detach().double() - expected).norm() / expected.norm()) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_the_definition(
    shape: tuple[int, ...], causal: bool, dtype: torch.dtype
) -> None:
    """Some units are so large that their exponentials overflow, and some keys are padding."""
    batch, heads, kv_heads, query_len, key_len, head_dim = shape
    attention = variants.create("additive", hidden_dim=UNITS, implementation="triton")
    generator = torch.Generator().manual_seed(0)
    sizes = (heads, query_len), (kv_heads, key_len), (kv_heads, key_len)
    inputs = [
        torch.randn(batch, count, length, head_dim, generator=generator).to(dtype)
        for count, length in sizes
    ]
    inputs[0][:, :, 3::7] *= 100
    padding = torch.zeros(batch, key_len, dtype=torch.bool)
    padding[0, 5:9] = padding[-1, -12:] = True
    learned = attention.init_parameters(heads, head_dim, seed=5)
    leaves = [x.requires_grad_() for x in (*inputs, *learned.values())]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    call: dict[str, Any] = {"causal": causal, "key_padding_mask": padding}
    with pretended_gpu("cpu"):
        out = attention(*leaves[:3], parameters=learned, **call)
        cotangent = torch.randn(out.shape, generator=generator).to(dtype)
        grads = torch.autograd.grad(out, leaves, cotangent)
    parameters = dict(zip(learned, wide[3:], strict=True))
    values = wide[2].repeat_interleave(heads // kv_heads, 1)
    values = values.masked_fill(padding[:, None, :, None], 0)
    expected = attention.weights(*wide[:2], parameters=parameters, **call) @ values
    right = torch.autograd.grad(expected, wide, cotangent.double())
    limit = 2e-5 if dtype is torch.float32 else 4e-3
    assert_near(out, expected.detach(), limit)
    for mine, theirs in zip(grads, right, strict=True):
        assert_near(mine, theirs, 3 * limit)
