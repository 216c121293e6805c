"""Linformer, implemented a second time by loops over rows, projected keys and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.plain_loops import HEAD_DIM, HEADS, tensors
from variants import linformer


def drawn(projected_len: int, key_len: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """E and F (projected_len, key_len), entry by entry from the blocks in which they are drawn."""
    size = linformer.PIECE
    draws = linformer._draws(projected_len, -(-key_len // size), seed, torch.device("cpu"))
    made = torch.empty(2, projected_len, key_len, dtype=torch.float64)
    for token in range(key_len):
        made[:, :, token] = draws[:, token // size, :, token % size]
    return made[0], made[1]


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize(("query_len", "key_len"), [(26, 26), (9, 150), (26, 9), (1, 128)])
def test_linformer_is_softmax_over_projected_keys(
    query_len: int, key_len: int, padded: bool
) -> None:
    attention = variants.create("linformer", projected_len=5, seed=3)
    query, key, value = tensors(query_len, key_len)
    for_keys, for_values = drawn(5, key_len, seed=3)
    mask = torch.zeros(2, key_len, dtype=torch.bool)
    if padded:
        mask[0, [1, 2, key_len - 3]] = mask[1, key_len // 2 : -1] = True
    weights = torch.zeros(2, HEADS, query_len, key_len, dtype=torch.float64)
    out = torch.zeros_like(query)
    for b in range(2):
        tokens = [j for j in range(key_len) if not mask[b, j]]
        for h in range(HEADS):
            keys = [sum(for_keys[p, j] * key[b, h // 2, j] for j in tokens) for p in range(5)]
            for i in range(query_len):
                kernel = [math.exp(0.7 * float(query[b, h, i] @ keys[p])) for p in range(5)]
                for j in tokens:
                    share = sum(kernel[p] * float(for_values[p, j]) for p in range(5))
                    weights[b, h, i, j] = share / sum(kernel)
                    out[b, h, i] += weights[b, h, i, j] * value[b, h // 2, j]
    call = {"key_padding_mask": mask if padded else None, "scale": 0.7}
    assert_close(attention.weights(query, key, **call), weights)
    assert_close(attention(query, key, value, **call), out)


@pytest.mark.parametrize(("shorter", "longer"), [(100, 120), (100, 400), (128, 256)])
def test_the_draws_of_a_token_do_not_depend_on_the_length(shorter: int, longer: int) -> None:
    """Additional tokens of padding do not change the output; both lengths use new draws."""
    query, key, value = tensors(20, longer)
    attention = variants.create("linformer", projected_len=16, seed=11)
    mask = (torch.arange(longer) >= shorter).expand(2, longer)
    attention.prepare(query, key)
    found = attention(query, key, value, key_padding_mask=mask)
    attention.prepare(query, key[:, :, :shorter])
    assert_close(attention(query, key[:, :, :shorter], value[:, :, :shorter]), found)


@pytest.mark.parametrize("key_len", [1, 31, 32])
def test_few_keys_are_not_projected_and_their_padding_is_hidden(key_len: int) -> None:
    query, key, value = tensors(20, key_len)
    mask = torch.zeros(2, key_len, dtype=torch.bool)
    mask[0, key_len // 2 :] = key_len > 1
    scores = query @ key.repeat_interleave(2, 1).mT / math.sqrt(HEAD_DIM)
    seen = torch.softmax(scores.masked_fill(mask[:, None, None], -math.inf), -1)
    found = variants.create("linformer", projected_len=32)(query, key, value, key_padding_mask=mask)
    assert_close(found, seen @ value.repeat_interleave(2, 1))


def test_one_key_more_than_that_is_projected() -> None:
    query, key, value = tensors(20, 33)
    attention = variants.create("linformer", projected_len=32)
    assert bool((attention.weights(query, key) < 0).any())
    full = variants.create("full")(query, key, value)
    assert not torch.allclose(attention(query, key, value), full, rtol=0.1)


def test_entries_are_normal_and_independent() -> None:
    """Mean 0 and variance 1/projected_len, so that on average EᵀE is the identity."""
    for_keys, for_values = drawn(64, 2000)
    for entries in (for_keys, for_values):
        assert float(entries.mean()) == pytest.approx(0, abs=4 / math.sqrt(64 * 64 * 2000))
        assert float(entries.square().mean()) == pytest.approx(1 / 64, rel=0.02)
        assert float(entries.pow(4).mean()) == pytest.approx(3 / 64**2, rel=0.05)
    identity = torch.eye(2000, dtype=torch.float64)
    for left, right, mean in ((for_keys, for_keys, identity), (for_keys, for_values, 0)):
        # Entries of the product have a standard deviation of 1/8, twice that on the diagonal.
        assert float((left.mT @ right - mean).square().mean()) == pytest.approx(1 / 64, rel=0.02)


def test_heads_share_their_draws() -> None:
    query, key, value = (x[:, :1].expand(-1, 3, -1, -1) for x in tensors(20, 40))
    out = variants.create("linformer", projected_len=8)(query, key, value)
    assert_close(out, out[:, :1].expand_as(out), rtol=1e-12, atol=1e-12)


def test_the_rounding_error_of_a_projection_does_not_grow_with_the_length() -> None:
    """A single sum over all tokens has an error of 6e-7 at this length."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 1, 1 << 14, 64, generator=generator)
    draws = linformer._draws(64, (1 << 14) // linformer.PIECE, 0, torch.device("cpu"))[0]
    found = linformer._Projected.apply(tokens, draws).double()
    exact = linformer._Projected.apply(tokens.double(), draws.double())
    assert float((found - exact).norm() / exact.norm()) < 4e-7
