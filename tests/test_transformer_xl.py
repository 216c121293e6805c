"""Transformer-XL, implemented a second time and segment by segment."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.plain_loops import HEADS, tensors


def learned(head_dim: int = 6) -> dict[str, Tensor]:
    """Parameters so large that each of them matters."""
    generator = torch.Generator().manual_seed(5)
    seeded = variants.create("transformer_xl").init_parameters(HEADS, head_dim)
    return {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in seeded.items()
    }


def sinusoid(distance: int, channel: int, channels: int) -> float:
    half = channels // 2
    angle = distance / 10000 ** (2 * (channel % half) / channels)
    return math.sin(angle) if channel < half else math.cos(angle)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(("segment", "memory"), [(7, 5), (4, 0), (1, 3), (64, 0), (6, 12)])
@pytest.mark.parametrize(("query_len", "key_len"), [(20, 20), (9, 20), (1, 20), (20, 9)])
def test_scores_are_the_sum_of_two_products_of_the_paper(
    query_len: int, key_len: int, segment: int, memory: int, padded: bool
) -> None:
    query, key, value = tensors(query_len, key_len)
    given = learned()
    mask = torch.zeros(2, key_len, dtype=torch.bool)
    if padded:
        mask[0, [1, 2]] = mask[1, key_len // 2 : -1] = True
    scale = 1 / math.sqrt(6)
    weights = torch.zeros(2, HEADS, query_len, key_len, dtype=torch.float64)
    for b in range(2):
        for h in range(HEADS):
            for i in range(query_len):
                position = i + key_len - query_len
                start = i // segment * segment + key_len - query_len - memory
                for j in range(max(0, start), position + 1):
                    if mask[b, j]:
                        continue
                    waves = torch.tensor(
                        [sinusoid(position - j, c, 6) for c in range(6)], dtype=torch.float64
                    )
                    relative = given["position_projection"][h].T @ waves
                    content = (query[b, h, i] + given["content_bias"][h]) @ key[b, h // 2, j]
                    place = (query[b, h, i] + given["position_bias"][h]) @ relative
                    weights[b, h, i, j] = torch.exp(scale * (content + place))
    weights /= weights.sum(-1, keepdim=True).clamp(min=1e-300)
    attention = variants.create("transformer_xl", segment_size=segment, memory_size=memory)
    call = {"causal": True, "key_padding_mask": mask if padded else None, "parameters": given}
    assert_close(attention.weights(query, key, **call), weights)
    right = weights @ value.repeat_interleave(2, dim=1).masked_fill(mask[:, None, :, None], 0)
    assert_close(attention(query, key, value, **call), right)


@pytest.mark.parametrize("keeps", ["memory", "everything"])
@pytest.mark.parametrize(("segment", "memory"), [(16, 16), (16, 40), (600, 600), (7, 5)])
def test_segment_by_segment_equals_one_pass(segment: int, memory: int, keeps: str) -> None:
    """The queries of each segment, with exactly the keys of its memory before them, or with all
    earlier keys."""
    length = 1300 if segment == 600 else 100
    query, key, value = tensors(length, length)
    attention = variants.create("transformer_xl", segment_size=segment, memory_size=memory)
    given = learned()
    whole = attention(query, key, value, causal=True, parameters=given)
    for start in range(0, length, segment):
        stop = min(start + segment, length)
        begin = max(0, start - memory) if keeps == "memory" else 0
        part = attention(
            query[:, :, start:stop],
            key[:, :, begin:stop],
            value[:, :, begin:stop],
            causal=True,
            parameters=given,
        )
        assert_close(part, whole[:, :, start:stop])


def test_with_a_memory_of_all_tokens_the_segments_do_not_matter() -> None:
    inputs = tensors(50, 50)
    whole = variants.create("transformer_xl", segment_size=50, memory_size=0)
    pieces = variants.create("transformer_xl", segment_size=8, memory_size=48)
    assert_close(pieces(*inputs, causal=True), whole(*inputs, causal=True))


def test_without_biases_and_positions_it_is_attention_over_segments() -> None:
    query, key, value = tensors(40, 40)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in learned().items()}
    attention = variants.create("transformer_xl", segment_size=40)
    right = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    assert_close(attention(query, key, value, causal=True, parameters=nothing), right)


def test_far_positions_are_as_exact_as_near_ones() -> None:
    """Angles grow with the position and must keep their digits in float32."""
    query, key, value = (x.float() for x in tensors(8, 60_000))
    attention = variants.create("transformer_xl", segment_size=64, memory_size=64)
    found = attention(query, key, value, causal=True)
    weights = attention.weights(query.double(), key.double(), causal=True)
    right = weights @ value.double().repeat_interleave(2, dim=1)
    assert float((found - right).norm() / right.norm()) < 2e-6
