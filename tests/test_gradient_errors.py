"""Errors of gradients against dense exact attention, differentiated in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import variants
from bench.instruments.accuracy import (
    Reference,
    Sample,
    gradient_errors,
    gradients,
    oracle,
    sample_rows,
)
from variants.contract.definitions import expand_heads

Tensors = tuple[Tensor, Tensor, Tensor]


def problem(queries: int, keys: int, *, kv_heads: int = 2) -> Tensors:
    generator = torch.Generator().manual_seed(3)
    return tuple(  # type: ignore[return-value]
        torch.randn(2, heads, tokens, 8, generator=generator, dtype=torch.float64)
        for heads, tokens in ((4, queries), (kv_heads, keys), (kv_heads, keys))
    )


def refer(tensors: Tensors, causal: bool) -> Reference:
    query, key, value = tensors
    sample = sample_rows(query.shape[2], key.shape[2], causal=causal, heads=1 << 23)
    return Reference.of(query, key, value, sample, causal=causal)


def by_autograd(reference: Reference, loss: Tensor) -> tuple[Tensor, ...]:
    """Gradients of dense attention in float64, for a loss on the sampled rows."""
    leaves = [
        x.double().clone().requires_grad_()
        for x in (reference.query, reference.key, reference.value)
    ]
    query, key, value = leaves
    keys, values = (expand_heads(x, query.shape[1]) for x in (key, value))
    scores = query @ keys.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if reference.causal:
        rows, columns = scores.shape[-2:]
        later = torch.ones(rows, columns, dtype=torch.bool).triu(1 + columns - rows)
        scores = scores.masked_fill(later, -torch.inf)
    out = torch.nan_to_num(scores.softmax(-1)) @ values
    return torch.autograd.grad((out[:, :, reference.sample.rows] * loss.double()).sum(), leaves)


@pytest.mark.parametrize("shape", [(40, 40), (20, 64), (200, 200)])
@pytest.mark.parametrize("causal", [False, True])
def test_exact_gradients_are_those_of_dense_attention(
    shape: tuple[int, int], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = refer(problem(*shape), causal)
    loss = gradients.cotangent(reference)
    found = gradients.exact_gradients(reference, loss)
    expected = by_autograd(reference, loss)
    rows = reference.sample.rows
    torch.testing.assert_close(found.query, expected[0][:, :, rows], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.key, expected[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.value, expected[2], rtol=1e-9, atol=1e-12)
    few = oracle.score_blocks

    def small(*tensors: Tensor, **options: object) -> object:
        return few(*tensors, **{**options, "pairs": 5000})  # type: ignore[arg-type]

    monkeypatch.setattr(oracle, "score_blocks", small)
    streamed = gradients.exact_gradients(reference, loss)
    torch.testing.assert_close(streamed.key, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sliding_window", {"window_size": 16}), ("linear", {}), ("nystrom", {}), ("lsh", {})],
)
def test_errors_are_relative_to_all_exact_gradients(name: str, settings: dict[str, int]) -> None:
    """A gradient of the query also counts where the exact one is 0, as the gradient of landmarks
    does."""
    tensors = problem(160, 160)
    attention = variants.create(name, **settings)
    causal = attention.info.causal_choices[-1]
    reference = refer(tensors, causal)
    loss = gradients.cotangent(reference)
    leaves = [x.clone().requires_grad_() for x in tensors]
    out = attention(*leaves, causal=causal)
    own = torch.autograd.grad((out[:, :, reference.sample.rows] * loss).sum(), leaves)
    expected = [
        float((mine - exact).norm() / exact.norm())
        for mine, exact in zip(own, by_autograd(reference, loss), strict=True)
    ]
    assert gradient_errors(attention, reference) == pytest.approx(expected, rel=1e-9)
    assert min(expected) > 0.01


def test_gradients_of_exact_attention_have_only_rounding_errors() -> None:
    query, key, value = problem(160, 160)
    reference = refer((query, key, value), True)
    assert max(gradient_errors(variants.create("full"), reference)) < 1e-13  # type: ignore[type-var]
    half = refer((query.float(), key.float(), value.float()), True)
    found = gradient_errors(variants.create("full"), half)
    assert all(1e-9 < one < 1e-5 for one in found if one is not None)


def test_sampled_rows_estimate_the_errors_of_the_loss_of_all_rows() -> None:
    """Each sampled row has the weight of the rows that it represents: on average, an eighth of the
    rows gives the errors of all rows. Causal, where the first rows are all sampled."""
    tensors = problem(1024, 1024)
    attention = variants.create("sliding_window", window_size=32)
    every = torch.arange(1024)
    whole = Sample(every, torch.ones(1024, dtype=torch.float64), every)
    query, key, value = tensors
    expected = gradient_errors(attention, Reference.of(query, key, value, whole, causal=True))
    found = []
    for seed in range(8):
        sample = sample_rows(1024, 1024, causal=True, heads=1 << 23, seed=seed)
        some = Reference.of(query, key, value, sample, causal=True)
        found.append(gradient_errors(attention, some))
    mean = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    assert mean == pytest.approx(expected, rel=0.08)


def test_a_shared_query_and_key_have_one_gradient_and_no_error_for_it() -> None:
    lsh = variants.create("lsh", shared_qk=True, bucket_size=8)
    reference = refer(problem(48, 48, kv_heads=4), True)
    query, key, value = gradient_errors(lsh, reference, shared_qk=True)
    assert query is key is None
    assert 0.01 < value < 10  # type: ignore[operator]


def test_a_gradient_of_zero_has_no_relative_error() -> None:
    """One key has all the weight for any score; the rest is rounding."""
    tensors = [x.float() for x in problem(1, 1)]
    found = gradient_errors(variants.create("full"), refer(tuple(tensors), True))  # type: ignore[arg-type]
    assert found[:2] == (None, None)
    assert found[2] is not None
    assert found[2] < 1e-6
    query, key, value = problem(48, 48)
    found = gradient_errors(variants.create("full"), refer((query * 1e6, key, value), False))
    assert found[:2] == (None, None)
