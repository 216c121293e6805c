"""The exact answer for some rows, computed in blocks of keys."""

from __future__ import annotations

import math

import pytest
import torch

from bench.instruments import memory
from bench.instruments.accuracy import oracle
from variants.contract.call import Call
from variants.contract.definitions import expand_heads, softmax_weights

SHAPES = [(2, 4, 2, 37, 37), (1, 3, 3, 5, 64), (1, 2, 1, 64, 1), (1, 1, 1, 20, 11)]


def problem(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    batch, heads, kv_heads, queries, keys = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [(heads, queries), (kv_heads, keys), (kv_heads, keys)]
    return [torch.randn(batch, *s, 8, generator=generator).to(dtype) for s in sizes]


@pytest.mark.parametrize("pairs", [1, 7 * 24, 1 << 20])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_exact_answer_equals_the_dense_definition_in_float64(
    shape: tuple[int, ...], causal: bool, pairs: int
) -> None:
    query, key, value = problem(shape)
    rows = torch.arange(0, query.shape[2], 3)
    seen = oracle.exact(query, key, value, rows, causal=causal, pairs=pairs)
    weights = softmax_weights(query, key, rows, Call(causal=causal, scale=1 / math.sqrt(8)))
    torch.testing.assert_close(
        seen.out, weights @ expand_heads(value, query.shape[1]), rtol=1e-12, atol=1e-13
    )
    blocks = list(oracle.score_blocks(query, key, rows, causal=causal, pairs=pairs))
    streamed = torch.cat([seen.weights(block) for block in blocks], dim=-1)
    whole = torch.zeros_like(weights)
    whole[..., : streamed.shape[-1]] = streamed
    torch.testing.assert_close(whole, weights, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [1e3, 1e-3])
def test_scores_of_any_size_give_finite_results(size: float) -> None:
    query, key, value = problem((1, 2, 2, 16, 48))
    rows = torch.arange(16)
    seen = oracle.exact(query * size, key, value, rows, causal=False, pairs=64)
    weights = torch.softmax((query * size) @ key.transpose(-2, -1) / math.sqrt(8), dim=-1)
    torch.testing.assert_close(seen.out, weights @ value, rtol=1e-10, atol=1e-12)


def test_memory_depends_only_on_rows_and_block_size() -> None:
    def peak(length: int) -> int:
        query, key, value = (torch.randn(1, 2, length, 16) for _ in range(3))
        rows = torch.arange(8)
        call = lambda: oracle.exact(query, key, value, rows, causal=False, pairs=1 << 12)  # noqa: E731
        return memory.peak_bytes(call, torch.device("cpu"))

    assert peak(16384) <= peak(1024) * 1.01


def test_a_causal_row_reads_no_key_after_its_last_visible_one() -> None:
    query, key, value = problem((1, 2, 2, 32, 32))
    key[:, :, 10:], value[:, :, 10:] = torch.nan, torch.nan
    seen = oracle.exact(query, key, value, torch.arange(10), causal=True, pairs=4)
    assert torch.isfinite(seen.out).all()
