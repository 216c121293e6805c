"""Adaptive span, implemented a second time. Its gradient is checked by finite differences, and
short spans cost less."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.plain_loops import HEADS, tensors
from variants.engines.tiled import tile_loop
from variants.engines.tiled.layouts.all_keys import Layout

SPANS = torch.tensor([0.0, 3.25, 11.0, 40.0], dtype=torch.float64)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(("query_len", "key_len"), [(26, 26), (9, 26), (26, 9), (1, 26)])
def test_adaptive_span_is_softmax_with_a_soft_mask(
    query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    query, key, value = tensors(query_len, key_len)
    mask = torch.zeros(2, key_len, dtype=torch.bool)
    if padded:
        mask[0, [1, 2]] = mask[1, key_len // 2 : -1] = True
    ramp, most = 4, 20
    weights = torch.zeros(2, HEADS, query_len, key_len, dtype=torch.float64)
    for b in range(2):
        for h in range(HEADS):
            span = min(float(SPANS[h]), most)
            for i in range(query_len):
                position = i + key_len - query_len
                for j in range(key_len):
                    if mask[b, j] or (causal and j > position):
                        continue
                    share = min(1.0, max(0.0, (ramp + span - abs(position - j)) / ramp))
                    score = query[b, h, i] @ key[b, h // 2, j] / math.sqrt(6)
                    weights[b, h, i, j] = share * torch.exp(score)
    total = weights.sum(-1, keepdim=True)
    weights = torch.where(total > 0, weights / total, 0)
    attention = variants.create("adaptive_span", max_span=most, ramp_size=ramp)
    call = {
        "causal": causal,
        "key_padding_mask": mask if padded else None,
        "parameters": {"span": SPANS},
    }
    assert_close(attention.weights(query, key, **call), weights)
    right = weights @ value.repeat_interleave(2, dim=1).masked_fill(mask[:, None, :, None], 0)
    assert_close(attention(query, key, value, **call), right)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_the_gradient_of_the_span_equals_finite_differences(causal: bool) -> None:
    inputs = tensors(70, 70)
    attention = variants.create("adaptive_span", max_span=50, ramp_size=8)
    # Not whole numbers: at a whole number a key enters or leaves the span and there is no
    # derivative.
    spans = torch.tensor([2.5, 7.3, 20.6, 33.4], dtype=torch.float64)

    def loss(span: Tensor) -> Tensor:
        return attention(*inputs, causal=causal, parameters={"span": span}).square().sum()

    leaf = spans.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)
    step = 1e-5
    for head in range(HEADS):
        moved = torch.zeros(HEADS, dtype=torch.float64)
        moved[head] = step
        right = (loss(spans + moved) - loss(spans - moved)) / (2 * step)
        assert abs(float(right)) > 1e-3
        assert_close(found[head], right, rtol=1e-5, atol=1e-7)


def test_a_span_outside_its_range_is_clamped_and_has_no_gradient() -> None:
    inputs = tensors(60, 60)
    attention = variants.create("adaptive_span", max_span=10, ramp_size=4)
    outside = torch.tensor([-3.0, 10.5, 1e9, 5.5], dtype=torch.float64, requires_grad=True)
    inside = torch.tensor([0.0, 10.0, 10.0, 5.5], dtype=torch.float64)
    out = attention(*inputs, causal=True, parameters={"span": outside})
    assert_close(out, attention(*inputs, causal=True, parameters={"span": inside}))
    (grad,) = torch.autograd.grad(out.square().sum(), outside)
    assert (grad != 0).tolist() == [False, False, False, True]


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_a_span_longer_than_the_sequence_is_softmax_attention(causal: bool) -> None:
    query, key, value = tensors(40, 40)
    attention = variants.create("adaptive_span", max_span=100)
    spans = {"span": torch.full((HEADS,), 100.0, dtype=torch.float64)}
    right = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=causal, enable_gqa=True
    )
    assert_close(attention(query, key, value, causal=causal, parameters=spans), right)


def test_a_short_span_scores_fewer_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Head by head: one long span does not make the other heads more expensive."""
    scored: list[int] = []
    original = tile_loop.run

    def count(*inputs: Tensor, **call: object) -> Tensor:
        (layouts,) = inputs[3:]
        for layout in layouts:
            assert isinstance(layout, Layout)
            assert layout.heads is not None
            scored.append(len(layout.heads) * layout.tiles * layout.rows * layout.keys)
        return original(*inputs, **call)

    monkeypatch.setattr(tile_loop, "run", count)
    query, key, value = tensors(2000, 2000)
    attention = variants.create("adaptive_span", max_span=1000, ramp_size=32)
    work = {}
    for name, spans in {
        "long": [1000.0] * 4,
        "one long": [1000.0, 10.0, 10.0, 10.0],
        "short": [10.0] * 4,
    }.items():
        scored.clear()
        span = torch.tensor(spans, dtype=torch.float64)
        attention(query, key, value, causal=True, parameters={"span": span})
        work[name] = sum(scored)
    assert work["short"] <= 4 * 2048 * (64 + 64)
    assert work["long"] >= 4 * 2000 * 1000
    assert work["one long"] == pytest.approx((work["long"] + 3 * work["short"]) / 4)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_heads_with_very_different_spans_in_one_call(causal: bool) -> None:
    """Spans differ by more than a tile, so each head has its own layout. Output and all gradients
    are compared."""
    attention = variants.create("adaptive_span", max_span=400, ramp_size=8)
    spans = torch.tensor([150.5, 1.5, 70.5, 390.5], dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (*tensors(300, 300), spans)]
    query, key, value, span = leaves
    call = {"causal": causal, "parameters": {"span": span}}
    out = attention(query, key, value, **call)
    right = attention.weights(query, key, **call) @ value.repeat_interleave(2, dim=1)
    assert_close(out, right)
    found = torch.autograd.grad(out.square().sum(), leaves)
    for mine, own in zip(found, torch.autograd.grad(right.square().sum(), leaves), strict=True):
        assert_close(mine, own)


def test_a_span_of_nan_raises_an_error_that_names_it() -> None:
    """A failed training step can produce such a span."""
    spans = torch.tensor([1.0, math.nan, 1.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"adaptive_span: spans must be numbers; got .*nan"):
        variants.create("adaptive_span")(*tensors(9, 9), parameters={"span": spans})


def test_operations_are_counted_for_every_head() -> None:
    attention = variants.create("adaptive_span", max_span=64, ramp_size=4)
    for heads in (1, 3, 8):
        query = torch.zeros(1, heads, 200, 2, dtype=torch.float64)
        pairs = float((attention.weights(query, query, causal=True) > 0).sum())
        flops = attention.useful_flops(2, heads, 200, 200, 16, causal=True)
        assert flops == pytest.approx(4 * 2 * 16 * pairs)
