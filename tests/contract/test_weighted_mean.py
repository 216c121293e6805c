"""Properties of any attention whose output is a weighted mean of values."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import variants
from tests.contract.answers import for_each_head
from tests.contract.attentions import (
    attentions,
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
from variants import REGISTRY, Attention


@pytest.mark.parametrize(
    ("attention", "shape"),
    attentions_and_shapes(["odd length, grouped heads", "more queries than keys"]),
)
def test_a_constant_value_gives_the_same_constant(attention: Attention, shape: Shape) -> None:
    """In every row that sees a key. This detects padding inside a kernel that gets weight."""
    query, key, value = shape.tensors()
    constant = value[:, :, :1].expand_as(value)
    seen = 0
    for call in calls(attention, shape):
        weights = attention.weights(query, key, **call)
        rows = (weights != 0).any(-1)
        # If weights do not sum to one, the result is the constant times their sum.
        total = rows.double() if attention.convex else weights.sum(-1)
        expected = for_each_head(constant, shape.heads)[:, :, :1] * total[..., None]
        assert_close(attention(query, key, constant, **call), expected)
        seen += int(rows.sum())
    assert seen


@pytest.mark.parametrize(
    "attention",
    # With a query of zeros all scores are equal, so softmax is uniform. A random estimate of
    # softmax that equals it at no setting (`exact_when` is None) still weighs keys by its random
    # features: their sum over directions depends on the key, and only its mean is uniform.
    attentions(
        where=lambda attention: (
            attention.target in ("softmax", "masked_softmax")
            and attention.info.exact_when is not None
            and attention.convex
        )
    ),
)
def test_a_query_of_zeros_gives_the_mean_of_the_visible_values(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    query = torch.zeros_like(query)
    for call in calls(attention, ODD):
        visible = attention.weights(query, key, **call) > 0
        if attention.target == "softmax":
            assert bool((visible == may_see(ODD, call)).all())
        uniform = visible.double() / visible.sum(-1, keepdim=True).clamp(min=1)
        expected = uniform @ for_each_head(value, ODD.heads)
        assert_close(attention(query, key, value, **call), expected)


@pytest.mark.parametrize(
    "shape",
    [ODD, SQUARE, SHAPES["more keys than queries"], SHAPES["more queries than keys"]],
    ids=["grouped heads", "square", "more keys", "more queries"],
)
@pytest.mark.parametrize(
    "name", [name for name in sorted(REGISTRY) if REGISTRY[name].info.exact_when is not None]
)
def test_an_attention_is_exact_at_the_hyperparameters_of_exact_when(
    name: str, shape: Shape
) -> None:
    attention = variants.create(name, **REGISTRY[name].info.exact_when)
    query, key, value = shape.tensors()
    for call in calls(attention, shape):
        scores = (query / math.sqrt(shape.head_dim)) @ for_each_head(key, shape.heads).mT
        kernel = (scores.exp() * may_see(shape, call)).nan_to_num()
        total = kernel.sum(-1, keepdim=True)
        weights = torch.where(total > 0, kernel / total, 0)
        assert_close(
            attention(query, key, value, **call), weights @ for_each_head(value, shape.heads)
        )
        assert_close(attention.weights(query, key, **call), weights)
