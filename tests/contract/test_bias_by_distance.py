"""A `distance_bias`, in every variant that declares support for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.answers import assert_same_answers, with_gradients
from tests.contract.attentions import (
    supports,
)
from tests.contract.shapes import (
    SHAPES,
    Shape,
    attentions_and_shapes,
    calls,
)
from variants import Attention, UnsupportedError
from variants.contract.call import Keywords


def biased(shapes: Sequence[str]) -> list[Any]:
    """The attentions that support a bias, each with each shape."""
    return [p for p in attentions_and_shapes(shapes) if supports("distance_bias")(p.values[0])]


@pytest.mark.parametrize(("attention", "shape"), biased(list(SHAPES)))
def test_with_a_bias_output_and_gradients_equal_own_weights_times_value(
    attention: Attention, shape: Shape
) -> None:
    for call in calls(attention, shape):
        call["distance_bias"] = shape.distance_bias()
        assert_same_answers(attention, attention, shape, call)


@pytest.mark.parametrize(("attention", "shape"), biased(list(SHAPES)))
def test_a_bias_multiplies_weights_by_its_exponential(attention: Attention, shape: Shape) -> None:
    """Derive the weights with a bias from the weights without it, entry by entry, by the rule of
    the contract."""
    query, key, _ = shape.tensors()
    bias = shape.distance_bias()
    i, j = torch.arange(shape.query_len)[:, None], torch.arange(shape.key_len)
    factor = bias[:, j - i + shape.query_len - 1].exp()
    for call in calls(attention, shape):
        changed = attention.weights(query, key, **call) * factor
        total = changed.sum(-1, keepdim=True)
        expected = changed / total.where(total > 0, 1.0)
        found = attention.weights(query, key, distance_bias=bias, **call)
        assert_close(found, expected)
        rows = torch.tensor([shape.query_len - 1, 0])
        some = attention.weights(query, key, distance_bias=bias, rows=rows, **call)
        assert_close(some, expected[:, :, rows])


@pytest.mark.parametrize(("attention", "shape"), biased(["odd length, grouped heads"]))
def test_every_named_implementation_supports_a_bias_or_refuses_it(
    attention: Attention, shape: Shape
) -> None:
    """For implementations that cannot run here, the check of availability is skipped."""
    call = {"distance_bias": shape.distance_bias()}
    served, refused = set(), {}
    for name in attention.info.implementations:
        if name == "triton":
            continue  # tests/gpu has tests with a bias
        named = dataclasses.replace(attention, implementation=name)
        here = named.unavailable(name, torch.device("cpu")) is None
        try:
            if here:
                assert_same_answers(named, attention, shape, call)
            else:
                inputs = shape.tensors()
                named.attend(*inputs, named.resolve(inputs[0], Keywords(**call)))
        except UnsupportedError as error:
            refused[name] = str(error)
        else:
            served.add(name)
    assert attention.info.implementations[0] in served
    assert refused == {name: f"implementation {name!r} takes no distance_bias" for name in refused}


@pytest.mark.parametrize(
    ("attention", "shape"), biased(["odd length, grouped heads", "more queries than keys"])
)
def test_a_constant_bias_changes_no_output(attention: Attention, shape: Shape) -> None:
    """Each head has its own constant. The output is a weighted mean and does not change."""
    if not attention.convex:
        pytest.skip("its weights do not sum to one")
    inputs = shape.tensors()
    entries = shape.query_len + shape.key_len - 1
    constant = torch.arange(shape.heads, dtype=torch.float64)[:, None] * 3 - 2
    for call in calls(attention, shape):
        plain = with_gradients(lambda *x, call=call: attention(*x, **call), inputs)
        bias = constant.expand(-1, entries)
        found = with_gradients(
            lambda *x, call=call: attention(*x[:3], distance_bias=x[3], **call), (*inputs, bias)
        )
        for mine, right in zip(found, plain, strict=False):
            assert_close(mine, right)
        # The gradients of one row's biases sum to zero, because its weights always sum to one.
        assert_close(found[4].sum(-1), torch.zeros(shape.heads, dtype=torch.float64))


@pytest.mark.parametrize(("attention", "shape"), biased(["odd length, grouped heads"]))
def test_a_causal_call_reads_no_bias_of_later_keys(attention: Attention, shape: Shape) -> None:
    if not supports("causal")(attention):
        pytest.skip("does not support causal")
    inputs = *shape.tensors(), shape.distance_bias()
    changed = inputs[3].clone()
    changed[:, shape.key_len :] = -1e9

    def attend(*x: Tensor) -> Tensor:
        return attention(*x[:3], causal=True, distance_bias=x[3])

    found = with_gradients(attend, inputs)
    assert torch.equal(found[0], attend(*inputs[:3], changed))
    assert not found[4][:, shape.key_len :].any()


@pytest.mark.parametrize("given", ["inputs", "bias"])
@pytest.mark.parametrize(("attention", "shape"), biased(["odd length, grouped heads"]))
def test_the_gradient_may_be_of_the_bias_only_or_of_the_other_inputs_only(
    attention: Attention, shape: Shape, given: str
) -> None:
    *inputs, bias = *shape.tensors(), shape.distance_bias()
    everything = with_gradients(lambda *x: attention(*x[:3], distance_bias=x[3]), (*inputs, bias))
    if given == "inputs":
        found = with_gradients(lambda *x: attention(*x, distance_bias=bias), inputs)
        expected = everything[:4]
    else:
        found = with_gradients(lambda x: attention(*inputs, distance_bias=x), [bias])
        expected = [everything[0], everything[4]]
    for mine, right in zip(found, expected, strict=True):
        assert torch.equal(mine, right)
