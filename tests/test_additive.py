"""Additive attention, implemented a second time by loops over rows, keys and hidden units."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from variants.engines import row_blocks

HEADS, KV_HEADS, HEAD_DIM, UNITS = 4, 2, 6, 3


def tensors(
    query_len: int, key_len: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((HEADS, query_len), (KV_HEADS, key_len), (KV_HEADS, key_len))
    return tuple(
        torch.randn(2, heads, length, HEAD_DIM, generator=generator, dtype=torch.float64).to(dtype)
        for heads, length in shapes
    )


def parameters() -> dict[str, Tensor]:
    made = variants.create("additive", hidden_dim=UNITS).init_parameters(HEADS, HEAD_DIM, seed=5)
    return {name: tensor.double() for name, tensor in made.items()}


def by_tanh(query: Tensor, key: Tensor, learned: dict[str, Tensor], scale: float = 1.0) -> Tensor:
    """Scores (batch, heads, query_len, key_len), computed for all units at once."""
    queries = scale * query @ learned["query_projection"]
    keys = key.repeat_interleave(HEADS // KV_HEADS, 1) @ learned["key_projection"]
    hidden = torch.tanh(queries[:, :, :, None] + keys[:, :, None])
    return (hidden * learned["score_vector"][:, None, None]).sum(-1)


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize(("query_len", "key_len"), [(12, 12), (5, 12), (12, 5), (1, 12)])
def test_additive_attention_is_softmax_of_a_vector_times_tanh(
    query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = variants.create("additive", hidden_dim=UNITS)
    query, key, value = tensors(query_len, key_len)
    learned = parameters()
    mask = torch.zeros(2, key_len, dtype=torch.bool)
    if padded:
        mask[0, [0, 2]] = mask[1, key_len // 2 :] = True
    weights = torch.zeros(2, HEADS, query_len, key_len, dtype=torch.float64)
    out = torch.zeros_like(query)
    for b in range(2):
        for h in range(HEADS):
            for i in range(query_len):
                for j in range(key_len):
                    if mask[b, j] or (causal and j > i + key_len - query_len):
                        continue
                    score = 0.0
                    for c in range(UNITS):
                        of_query = learned["query_projection"][h, :, c] @ query[b, h, i]
                        of_key = learned["key_projection"][h, :, c] @ key[b, h // 2, j]
                        unit = math.tanh(0.7 * float(of_query) + float(of_key))
                        score += float(learned["score_vector"][h, c]) * unit
                    weights[b, h, i, j] = math.exp(score)
                if weights[b, h, i].any():
                    weights[b, h, i] /= weights[b, h, i].sum()
                for j in range(key_len):
                    out[b, h, i] += weights[b, h, i, j] * value[b, h // 2, j]
    call: dict[str, Any] = {"causal": causal, "scale": 0.7, "parameters": learned}
    call["key_padding_mask"] = mask if padded else None
    assert_close(attention.weights(query, key, **call), weights)
    assert_close(attention(query, key, value, **call), out)


def test_the_query_is_not_scaled_by_default() -> None:
    inputs = tensors(9, 9)
    attention = variants.create("additive")
    assert torch.equal(attention(*inputs), attention(*inputs, scale=1.0))
    assert not torch.allclose(attention(*inputs), attention(*inputs, scale=0.5))


def test_initial_parameters_give_hidden_units_and_scores_of_unit_size() -> None:
    made = variants.create("additive", hidden_dim=256).init_parameters(8, 64)
    shapes = {name: tuple(tensor.shape) for name, tensor in made.items()}
    assert shapes == {
        "query_projection": (8, 64, 256),
        "key_projection": (8, 64, 256),
        "score_vector": (8, 256),
    }
    for name, size in (("query_projection", 64), ("key_projection", 64), ("score_vector", 256)):
        assert float(made[name].square().mean()) == pytest.approx(1 / size, rel=0.1)
    assert not torch.equal(made["query_projection"], made["key_projection"])


# Sizes of the hidden units of queries and of keys.
SIZES = [(1.0, 1.0), (1e3, 1.0), (1.0, 1e3), (1e3, 1e3)]


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_hidden_units_of_any_size_equal_those_of_tanh(
    sizes: tuple[float, float], dtype: torch.dtype, causal: bool
) -> None:
    """Large units of opposite sign are included, in some keys only: tanh of their sum does not
    round to ±1."""
    query, key, value = tensors(40, 40, dtype)
    learned = {name: tensor.to(dtype) for name, tensor in parameters().items()}
    query[:, :, ::3] *= sizes[0]
    key[:, :, 10::3] *= sizes[1]
    learned["key_projection"][1] = learned["key_projection"][0]
    learned["query_projection"][0] = -learned["key_projection"][0]
    query[:, 0, 20:] = key[:, 0, 20:]
    wide = {name: tensor.double() for name, tensor in learned.items()}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attention = variants.create("additive", hidden_dim=UNITS)
        return attention(query, key, value, causal=causal, parameters=learned)

    def right(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = by_tanh(query, key, wide)
        if causal:
            scores = scores.masked_fill(torch.ones(40, 40).triu(1).bool(), -math.inf)
        return torch.softmax(scores, -1) @ value.repeat_interleave(2, 1)

    leaves = [x.requires_grad_() for x in (query, key, value)]
    doubles = [x.detach().double().requires_grad_() for x in leaves]
    out, expected = attend(*leaves), right(*doubles)
    # In float32, hidden units of size 1000 have a rounding error of 1e-4.
    near = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 2e-3, "atol": 2e-3}
    assert_close(out.double(), expected, **near)
    grads = torch.autograd.grad(out.sum(), leaves)
    for mine, theirs in zip(grads, torch.autograd.grad(expected.sum(), doubles), strict=True):
        assert_close(mine.double(), theirs, **near)


@pytest.mark.parametrize("rows", [7, row_blocks.ROWS])
def test_a_later_key_of_any_size_leaves_earlier_rows_bit_for_bit_unchanged(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_blocks, "ROWS", rows)
    attention = variants.create("additive", hidden_dim=UNITS)
    query, key, value = tensors(150, 150, torch.float32)
    before = attention(query, key, value, causal=True)
    for last in (3, 63, 64, 90, 148):
        changed = key.clone()
        changed[:, :, last + 1 :] *= 1e4
        after = attention(query, changed, value, causal=True)
        assert torch.equal(after[:, :, : last + 1], before[:, :, : last + 1])
        assert not torch.equal(after, before)


def test_a_vector_of_large_numbers_gives_finite_results() -> None:
    query, key, value = tensors(20, 20, torch.float32)
    learned = {name: tensor.float() for name, tensor in parameters().items()}
    learned["query_projection"] *= 50
    learned["score_vector"] *= 1e6
    out = variants.create("additive", hidden_dim=UNITS)(query, key, value, parameters=learned)
    assert bool(out.isfinite().all())
    assert bool((out.abs().sum(-1) > 0).all())
