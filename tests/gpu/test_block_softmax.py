"""Fused softmax over listed blocks, against the dense definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import variants
from variants.contract.device import pretended_gpu

# Each text is a variant whose tiles have partly visible, fully visible and unseen blocks.
PATTERNS = (
    "sliding_window window_size=20",
    "sliding_window window_size=150",
    "attention_sinks num_sink_tokens=4 window_size=20",
    "longformer num_global_tokens=70 window_size=20",
    "bigbird block_size=16 num_random_blocks=2",
    "bigbird block_size=24 num_random_blocks=1 num_global_blocks=1",
)
# Each row sees means of groups of tokens.
POOLED = (
    "block_summary block_size=16",
    "block_summary block_size=13",
    "hierarchical block_size=8",
    "hierarchical block_size=64",
    "compressed block_size=4",
    "compressed block_size=3 compression=convolution",
)
# heads, kv_heads, query_len, key_len, head_dim
SHAPES = ((2, 1, 150, 150, 16), (2, 2, 67, 200, 24), (1, 1, 200, 70, 8))
LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3}


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads, query_len, key_len, head_dim = shape
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int, length: int) -> Tensor:
        tensor = torch.randn(2, heads, length, head_dim, generator=generator)
        return tensor.to(dtype).requires_grad_()

    return draw(heads, query_len), draw(kv_heads, key_len), draw(kv_heads, key_len)


def error(found: Tensor, expected: Tensor) -> float:
    assert found.isfinite().all()
    return float((found.detach().double() - expected).norm() / expected.norm().clamp(min=1e-30))


def compare(
    text: str, shape: tuple[int, ...], causal: bool, dtype: torch.dtype, padded: bool
) -> None:
    attention = variants.parse(f"{text} implementation=triton")
    query, key, value = drawn(shape, dtype)
    padding = None
    if padded:
        padding = torch.zeros(2, shape[3], dtype=torch.bool)
        padding[0, -9:] = True
    with pretended_gpu("cpu"):
        out = attention(query, key, value, causal=causal, key_padding_mask=padding)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        grads = torch.autograd.grad(out, (query, key, value), weight)
    wide = [x.detach().double().requires_grad_() for x in (query, key, value)]
    weights = attention.weights(wide[0], wide[1], causal=causal, key_padding_mask=padding)
    values = wide[2].repeat_interleave(shape[0] // shape[1], dim=1)
    if padding is not None:
        values = values.masked_fill(padding[:, None, :, None], 0)
    expected = weights @ values
    expected_grads = torch.autograd.grad(expected, wide, weight.double())
    assert error(out, expected.detach()) < LIMITS[dtype]
    for name, found, right in zip(["query", "key", "value"], grads, expected_grads, strict=True):
        assert error(found, right) < 2 * LIMITS[dtype], name


@pytest.mark.interpreted
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("text", PATTERNS + POOLED)
def test_outputs_and_gradients(text: str, shape: tuple[int, ...], causal: bool) -> None:
    compare(text, shape, causal, torch.float32, padded=False)


@pytest.mark.interpreted
@pytest.mark.parametrize("text", PATTERNS + POOLED)
def test_float16_with_padding(text: str) -> None:
    compare(text, SHAPES[0], True, torch.float16, padded=True)
