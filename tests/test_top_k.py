"""Exact top-k attention against its definition in plain loops, and the properties of its choice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import variants


def tensors(
    batch: int,
    heads: int,
    kv_heads: int,
    query_len: int,
    key_len: int,
    head_dim: int = 4,
    seed: int = 0,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (heads, query_len), (kv_heads, key_len), (kv_heads, key_len)
    return [
        torch.randn(batch, count, length, head_dim, generator=generator, dtype=torch.float64)
        for count, length in shapes
    ]


def kept_by_hand(
    query: list[float], keys: list[list[float]], seen: list[int], count: int, sign: int
) -> list[int]:
    """The kept keys of one query. Inputs are already in float32, and scores are rounded to
    float32."""
    products = {j: sign * sum(q * k for q, k in zip(query, keys[j], strict=True)) for j in seen}
    scores = {j: float(torch.tensor(one, dtype=torch.float32)) for j, one in products.items()}
    ranked = sorted(scores.values(), reverse=True)
    return [j for j in seen if len(ranked) <= count or scores[j] >= ranked[count - 1]]


def weights_by_hand(
    query: Tensor, key: Tensor, padding: Tensor, count: int, causal: bool, scale: float
) -> Tensor:
    batch, heads, query_len, _ = query.shape
    key_len, group = key.shape[2], heads // key.shape[1]
    weights = torch.zeros(batch, heads, query_len, key_len, dtype=torch.float64)
    for b in range(batch):
        padded = padding[b].tolist()
        for h in range(heads):
            queries, keys = query[b, h].float().tolist(), key[b, h // group].float().tolist()
            products = (query[b, h] @ key[b, h // group].T).tolist()
            for i in range(query_len):
                last = i + key_len - query_len if causal else key_len
                seen = [j for j in range(key_len) if j <= last and not padded[j]]
                sign = (scale > 0) - (scale < 0)
                kept = kept_by_hand(queries[i], keys, seen, count, sign)
                highest = max((scale * products[i][j] for j in kept), default=0.0)
                kernel = {j: math.exp(scale * products[i][j] - highest) for j in kept}
                for j, one in kernel.items():
                    weights[b, h, i, j] = one / sum(kernel.values())
    return weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(
    ("query_len", "key_len"), [(45, 45), (20, 45), (60, 45)], ids=["self", "longer", "shorter"]
)
@pytest.mark.parametrize(
    ("count", "scale"), [(1, 0.7), (4, 0.7), (20, 0.7), (100, 0.7), (4, -0.7), (4, 0.0)]
)
def test_equals_the_definition_in_plain_loops(
    count: int,
    scale: float,
    query_len: int,
    key_len: int,
    padded: bool,
    causal: bool,
    dtype: torch.dtype,
) -> None:
    query, key, value = tensors(2, 4, 2, query_len, key_len)
    # Keys that occur twice tie, and so do keys with scores that float32 cannot distinguish. For a
    # query of zeros all keys tie.
    key[:, :, 30:36] = key[:, :, 10:16]
    key[:, :, 16:22, 3] = 0
    key[:, :, 36:42] = key[:, :, 16:22]
    key[:, :, 36:42, 3] = 1e-10
    query[:, :, 17] = 0
    query, key, value = (x.to(dtype) for x in (query, key, value))
    padding = torch.zeros(2, key_len, dtype=torch.bool)
    if padded:
        padding[0, 6:13] = True
        padding[0, -2:] = True
        padding[1, 0] = True
    wide = [x.double() for x in (query, key, value)]
    expected = weights_by_hand(wide[0], wide[1], padding, count, causal, scale)
    call: dict[str, Any] = {"causal": causal, "scale": scale}
    if padded:
        call["key_padding_mask"] = padding
    attention = variants.create("top_k", top_k=count)
    tolerance: dict[str, float] = {} if dtype is torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    weights = attention.weights(query, key, **call)
    assert torch.equal(weights > 0, expected > 0)
    torch.testing.assert_close(weights.double(), expected, **tolerance)
    found = attention(query, key, value, **call).double()
    right = expected @ wide[2].repeat_interleave(2, dim=1)
    torch.testing.assert_close(found, right, **tolerance)


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_gradients_are_those_of_the_definition_in_plain_loops(causal: bool, count: int) -> None:
    """The gradients of softmax over the kept keys, with the choice held fixed. Some rows have
    ties."""
    inputs = tensors(1, 4, 2, 31, 40)
    inputs[0][:, :, 17] = 0
    inputs[1][:, :, 20:24] = inputs[1][:, :, 5:9]
    none = torch.zeros(1, 40, dtype=torch.bool)
    seen = weights_by_hand(*inputs[:2], none, count, causal, 0.5) > 0
    assert 0 < int((seen.sum(-1) > count).sum()) < 62
    leaves = [x.requires_grad_() for x in inputs]
    query, key, value = leaves[0], *(x.repeat_interleave(2, dim=1) for x in leaves[1:])
    scores = (0.5 * query @ key.mT).masked_fill(~seen, -math.inf)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(query.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(scores.softmax(-1) @ value, leaves, cotangent)
    attention = variants.create("top_k", top_k=count)
    found = torch.autograd.grad(attention(*leaves, causal=causal, scale=0.5), leaves, cotangent)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right)


def test_a_query_of_zeros_keeps_every_key() -> None:
    query, key, value = tensors(1, 1, 1, 64, 64)
    attention = variants.create("top_k", top_k=3)
    out = attention(torch.zeros_like(query), key, value, causal=True)
    steps = torch.arange(1, 65)[:, None]
    torch.testing.assert_close(out, value.cumsum(2) / steps)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_kernel_keeps_the_same_keys_as_the_definition_even_if_scores_are_close(
    dtype: torch.dtype, causal: bool
) -> None:
    """Keys that differ by rounding only; sums in float32 cannot identify the higher score."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 1, 200, 16, generator=generator, dtype=torch.float64)
    key = torch.randn(1, 1, 1, 16, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, 1, 200, 16, generator=generator, dtype=torch.float64)
    key = key + 1e-7 * noise
    value = torch.eye(200, dtype=dtype)[None, None, :, :16].contiguous()
    query, key = query.to(dtype), key.to(dtype)
    attention = variants.create("top_k", top_k=5)
    expected = attention.weights(query.double(), key.double(), causal=causal)
    found = attention(query, key, value, causal=causal)
    assert torch.equal(found > 0, expected[..., :16] > 0)


@pytest.mark.parametrize("ties", [False, True], ids=["apart", "ties"])
@pytest.mark.parametrize("count", [4, 60])
def test_later_tokens_change_no_earlier_row_not_even_by_rounding(count: int, ties: bool) -> None:
    """Also if other rows have ties or close scores and are computed against all keys."""
    attention = variants.create("top_k", top_k=count)
    for seed in range(4):
        inputs = [x.float() for x in tensors(1, 2, 1, 300, 300, 16, seed)]
        others = [x.float() * 30 for x in tensors(1, 2, 1, 300, 300, 16, seed + 50)]
        if ties:
            others[1][:, :, 1::2] = others[1][:, :, ::2]
            inputs[1][:, :, 40:60] = inputs[1][:, :, :20]
        before = attention(*inputs, causal=True)
        for cut in (20, 65, 130, 257):
            late = [
                torch.cat([x[:, :, :cut], y[:, :, cut:]], 2)
                for x, y in zip(inputs, others, strict=True)
            ]
            after = attention(*late, causal=True)
            assert torch.equal(after[:, :, :cut], before[:, :, :cut])
            assert not torch.equal(after, before)


@pytest.mark.parametrize(("query_len", "key_len"), [(40, 40), (11, 40), (60, 40)])
@pytest.mark.parametrize("causal", [False, True])
def test_operations_are_those_of_all_scores_and_of_the_kept_values(
    query_len: int, key_len: int, causal: bool
) -> None:
    query, key, _ = tensors(1, 1, 1, query_len, key_len, 16)
    attention = variants.create("top_k", top_k=7)
    kept = int((attention.weights(query, key, causal=causal) > 0).sum())
    scored = int((variants.create("full").weights(query, key, causal=causal) > 0).sum())
    found = attention.useful_flops(2, 3, query_len, key_len, 16, causal=causal)
    assert found == 2 * 3 * 16 * 2 * (scored + kept)
