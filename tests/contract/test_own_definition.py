"""The kernel of every variant computes the result of its own `weights`.

`test_dense_definitions` tests whether these weights are those of a known method.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import re
from contextlib import suppress
from functools import cache
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

import variants
from tests.contract.answers import assert_same_answers
from tests.contract.attentions import (
    COMPILED,
    attentions,
    plainly,
    supports,
)
from tests.contract.shapes import (
    ODD,
    SHAPES,
    SQUARE,
    Shape,
    attentions_and_shapes,
    calls,
    may_see,
)
from variants import Attention, UnsupportedError


@pytest.mark.parametrize(("attention", "shape"), attentions_and_shapes(list(SHAPES)))
def test_output_and_gradients_equal_own_weights_times_value(
    attention: Attention, shape: Shape
) -> None:
    for call in calls(attention, shape):
        assert_same_answers(attention, attention, shape, call)


@pytest.mark.parametrize(
    ("attention", "shape"), attentions_and_shapes(["odd length, grouped heads"])
)
def test_every_named_implementation_gives_the_same_result(
    attention: Attention, shape: Shape
) -> None:
    """An implementation may raise for some argument combinations, but not for all."""
    for name in set(attention.info.implementations) - COMPILED:
        named = dataclasses.replace(attention, implementation=name)
        if named.unavailable(name, torch.device("cpu")) is not None:
            continue
        ran = 0
        for call in calls(attention, shape):
            with suppress(UnsupportedError):
                assert_same_answers(named, attention, shape, call)
                ran += 1
        assert ran, f"{name} is available but refuses every call"


@pytest.mark.parametrize("attention", attentions("small"))
def test_an_implementation_that_cannot_run_here_raises_with_the_reason(
    attention: Attention,
) -> None:
    query, key, value = ODD.tensors()
    for name in attention.info.implementations:
        named = dataclasses.replace(attention, implementation=name)
        reason = named.unavailable(name, query.device)
        if reason is None:
            assert named.choose_implementation(query, key) == name
            continue
        expected = f"{attention.info.name}: .*{name}.*{re.escape(reason)}"
        with pytest.raises(UnsupportedError, match=expected):
            plainly(named)(query, key, value)


@pytest.mark.parametrize("attention", attentions())
def test_the_automatic_implementation_is_one_that_runs_here(attention: Attention) -> None:
    query, key, _ = ODD.tensors()
    chosen = attention.choose_implementation(query, key)
    assert chosen in attention.info.implementations
    assert attention.unavailable(chosen, query.device) is None


@pytest.mark.parametrize(
    ("attention", "shape"),
    attentions_and_shapes(["odd length, grouped heads", "more keys than queries"]),
)
def test_rows_of_weights_are_rows_of_all_weights(attention: Attention, shape: Shape) -> None:
    query, key, _ = shape.tensors()
    rows = torch.tensor([shape.query_len - 1, 0, 7, 7, 19])
    for call in calls(attention, shape):
        whole = attention.weights(query, key, **call)
        assert whole.shape == (shape.batch, shape.heads, shape.query_len, shape.key_len)
        some = attention.weights(query, key, rows=rows, **call)
        assert_close(some, whole[:, :, rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("attention", "shape"),
    attentions_and_shapes(["odd length, grouped heads", "more queries than keys"]),
)
def test_weights_are_zero_where_causality_or_padding_hides_the_key(
    attention: Attention, shape: Shape
) -> None:
    query, key, _ = shape.tensors()
    for call in calls(attention, shape):
        weights = attention.weights(query, key, **call)
        assert bool(weights.isfinite().all())
        assert_close(weights, weights * may_see(shape, call), rtol=0, atol=0)


@pytest.mark.parametrize("attention", attentions(where=lambda attention: attention.convex))
def test_weights_are_not_negative_and_a_row_sums_to_one_or_is_empty(attention: Attention) -> None:
    query, key, _ = ODD.tensors()
    for call in calls(attention, ODD):
        weights = attention.weights(query, key, **call)
        assert bool((weights >= 0).all())
        total = weights.sum(-1)
        assert_close(total, (weights > 0).any(-1).double())
        assert bool((total[0] > 0).any())


@pytest.mark.parametrize(
    ("attention", "shape"),
    [
        case
        for case in attentions_and_shapes(list(SHAPES))
        if case.values[0].useful_pairs(1, 1, causal=False) is not None
    ],
)
def test_useful_pairs_are_the_pairs_with_weight(attention: Attention, shape: Shape) -> None:
    """The mean over eight heads, because heads may draw differently."""
    query = torch.zeros(1, 8, shape.query_len, 2, dtype=torch.float64)
    key = torch.zeros(1, 8, shape.key_len, 2, dtype=torch.float64)
    for causal in {call["causal"] for call in calls(attention, shape)}:
        weights = attention.weights(query, key, causal=causal)
        pairs = attention.useful_pairs(shape.query_len, shape.key_len, causal=causal)
        assert pairs == pytest.approx(float((weights > 0).sum()) / 8)


@pytest.mark.parametrize("attention", attentions())
def test_useful_operations_grow_with_batch_and_heads(attention: Attention) -> None:
    for causal in {call["causal"] for call in calls(attention, SQUARE)}:
        flops = attention.useful_flops(1, 8, 300, 300, 16, causal=causal)
        if flops is None:
            return
        assert 0 < flops < math.inf
        twice = attention.useful_flops(2, 8, 300, 300, 16, causal=causal)
        assert twice == pytest.approx(2 * flops)
        assert attention.useful_flops(1, 8, 600, 600, 16, causal=causal) > flops


# Block sizes of the engines. The result must not depend on them.
PIECES = ("SCORES_CPU", "LARGE_HEAD", "CHUNK", "CHUNKS", "DEPTH", "ROWS", "DENSE_ROWS")
MANY_PIECES = Shape(1, 2, 2, 110, 110, scale=0.3)


@cache
def modules_with_pieces() -> list[tuple[ModuleType, str]]:
    packages = pkgutil.walk_packages(variants.__path__, "variants.")
    modules = [importlib.import_module(package.name) for package in packages]
    return [(module, size) for module in modules for size in PIECES if hasattr(module, size)]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, size in modules_with_pieces():
        monkeypatch.setattr(module, size, 7)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("shape", [ODD, MANY_PIECES], ids=["grouped heads", "many pieces"])
@pytest.mark.parametrize("attention", attentions("small"))
def test_result_does_not_depend_on_the_block_sizes(attention: Attention, shape: Shape) -> None:
    for call in calls(attention, shape):
        assert_same_answers(attention, attention, shape, call)
        if supports("distance_bias")(attention):
            biased = {**call, "distance_bias": shape.distance_bias()}
            assert_same_answers(attention, attention, shape, biased)
