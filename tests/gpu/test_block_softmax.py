"""Fused softmax over listed blocks, against the dense definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import variants
from variants import REGISTRY, Attention, UnsupportedError
from variants.contract.device import interpreted, pretended_gpu

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
OTHERS = (
    "transformer_xl segment_size=24 memory_size=10",
    "transformer_xl segment_size=100 memory_size=90",
    "adaptive_span max_span=60 ramp_size=8",
)
# heads, kv_heads, query_len, key_len, head_dim
SHAPES = ((2, 1, 150, 150, 16), (2, 2, 67, 200, 24), (1, 1, 200, 70, 8))
LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3}


def cases() -> list[tuple[str, tuple[int, ...], bool]]:
    """Each text with and without `causal`, with changing shapes."""
    found = []
    for number, text in enumerate(PATTERNS + POOLED + OTHERS):
        causal_only = variants.parse(text).info.causal_only
        for causal in (True,) if causal_only else (False, True):
            found.append((text, SHAPES[(number + causal) % len(SHAPES)], causal))
    return found


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads, query_len, key_len, head_dim = shape
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int, length: int) -> Tensor:
        tensor = torch.randn(2, heads, length, head_dim, generator=generator)
        return tensor.to(dtype).requires_grad_()

    return draw(heads, query_len), draw(kv_heads, key_len), draw(kv_heads, key_len)


def error(found: Tensor, expected: Tensor) -> float:
    assert found.isfinite().all()
    difference = (found.detach().double() - expected.detach()).norm()
    return float(difference / expected.detach().norm().clamp(min=1e-30))


def compare(
    text: str,
    shape: tuple[int, ...],
    causal: bool,
    dtype: torch.dtype,
    *,
    padded: bool = False,
    biased: bool = False,
) -> None:
    """Compare output and all gradients with those of the definition in float64."""
    attention = variants.parse(text + " implementation=triton")
    query, key, value = drawn(shape, dtype)
    padding = None
    if padded:
        padding = torch.zeros(2, shape[3], dtype=torch.bool)
        padding[0, -9:] = True
        padding = padding.T.contiguous().T  # a mask need not be contiguous
    learned = {
        name: tensor.requires_grad_()
        for name, tensor in attention.init_parameters(shape[0], shape[4], seed=1).items()
    }
    bias = None
    if biased:
        bias = torch.randn(shape[0], shape[2] + shape[3] - 1).requires_grad_()
    leaves = [query, key, value, *learned.values()] + ([] if bias is None else [bias])
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wide_learned = dict(zip(learned, wide[3:], strict=False))
    with pretended_gpu("cpu"):
        out = attention(
            *(query, key, value),
            causal=causal,
            key_padding_mask=padding,
            distance_bias=bias,
            parameters=learned or None,
        )
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        grads = torch.autograd.grad(out, leaves, weight)
    weights = attention.weights(
        *wide[:2],
        causal=causal,
        key_padding_mask=padding,
        distance_bias=None if bias is None else wide[-1],
        parameters=wide_learned or None,
    )
    values = wide[2].repeat_interleave(shape[0] // shape[1], dim=1)
    if padding is not None:
        values = values.masked_fill(padding[:, None, :, None], 0)
    expected = weights @ values
    assert error(out, expected) < LIMITS[dtype]
    names = ["query", "key", "value", *learned, "bias"]
    expected_grads = torch.autograd.grad(expected, wide, weight.double())
    for name, found, right in zip(names, grads, expected_grads, strict=False):
        assert error(found, right) < 3 * LIMITS[dtype], name


@pytest.mark.interpreted
@pytest.mark.parametrize(("text", "shape", "causal"), cases(), ids=str)
def test_outputs_and_gradients(text: str, shape: tuple[int, ...], causal: bool) -> None:
    compare(text, shape, causal, torch.float32)


@pytest.mark.interpreted
@pytest.mark.parametrize("text", [PATTERNS[2], PATTERNS[4], POOLED[1], POOLED[2], *OTHERS])
def test_float16_with_padding(text: str) -> None:
    compare(text, SHAPES[0], True, torch.float16, padded=True)


@pytest.mark.interpreted
@pytest.mark.parametrize("text", ["sliding_window window_size=20", "full"])
def test_padding_and_distance_bias(text: str) -> None:
    compare(text, SHAPES[1], True, torch.float32, padded=True, biased=True)


def test_spans_of_nan_give_nan() -> None:
    attention = variants.create("adaptive_span", max_span=60, ramp_size=8)
    distances = torch.arange(-5, 6)
    span = torch.tensor([3.0, torch.nan])
    bias = attention._log_share(span, distances, True) + 0 * span[:, None]  # type: ignore[attr-defined]
    assert bias[0].isfinite().all()
    assert bias[1].isnan().all()


FUSED = [name for name, cls in REGISTRY.items() if "triton" in cls.info.implementations]


def zeros(attention: Attention, dtype: torch.dtype) -> Tensor:
    query, key, value = (torch.zeros(1, 2, 8, 8, dtype=dtype) for _ in range(3))
    return attention(query, key, value, causal=attention.info.causal_choices[-1])


@pytest.mark.interpreted
@pytest.mark.parametrize("name", FUSED)
def test_float64_is_refused(name: str) -> None:
    attention = variants.create(name, implementation="triton")
    reason = "it has no kernel for 8 channels in float64"
    with pretended_gpu("cpu"), pytest.raises(UnsupportedError, match=reason):
        zeros(attention, torch.float64)


@pytest.mark.skipif(interpreted(), reason="Triton's interpreter runs on a CPU")
@pytest.mark.parametrize("name", FUSED)
def test_a_cpu_is_refused(name: str) -> None:
    attention = variants.create(name, implementation="triton")
    with pytest.raises(UnsupportedError, match="Triton kernels run on CUDA only"):
        zeros(attention, torch.float32)
