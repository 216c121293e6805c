"""No output depends on a later token, on padding, on another sequence or on another head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch.testing import assert_close

import variants
from tests.contract.answers import with_gradients
from tests.contract.attentions import (
    attentions,
    attentions_and_dtypes,
    plainly,
    small_settings,
    supports,
)
from tests.contract.shapes import (
    HALF,
    ODD,
    SHAPES,
    SQUARE,
    Shape,
    calls,
)
from variants import Attention


@pytest.mark.parametrize("attention", attentions(where=supports("causal")))
@pytest.mark.parametrize(
    ("shape", "last_rows"),
    [(SQUARE, (0, 63, 64, 127, 148)), (SHAPES["more keys than queries"], (0, 11, 28))],
    ids=["square", "more keys"],
)
def test_causal_output_does_not_depend_on_later_tokens(
    attention: Attention, shape: Shape, last_rows: Sequence[int]
) -> None:
    if not calls(attention, shape):
        pytest.skip("does not support cross_attention")
    inputs = shape.tensors()
    others = shape.tensors(seed=3)
    before = attention(*inputs, causal=True)
    weights = attention.weights(*inputs[:2], causal=True)
    reached = False
    for row in last_rows:
        for change in (lambda old, new: old * 50, lambda old, new: new):
            changed = []
            for tensor, other in zip(inputs, others, strict=True):
                # Change query, key and value of one token together.
                first = row + 1 + tensor.shape[2] - shape.query_len
                late = tensor.clone()
                late[:, :, first:] = change(tensor, other)[:, :, first:]
                changed.append(late)
            after = attention(*changed, causal=True)
            kept = slice(None, row + 1)
            assert_close(after[:, :, kept], before[:, :, kept], rtol=1e-12, atol=1e-12)
            reached |= not torch.equal(after[:, :, row + 1 :], before[:, :, row + 1 :])
            after = attention.weights(*changed[:2], causal=True)
            assert_close(after[:, :, kept], weights[:, :, kept], rtol=1e-12, atol=1e-12)
    assert reached, "the changes affect no row"


@pytest.mark.parametrize("attention", attentions(where=supports("causal", "cross_attention")))
def test_causal_rows_do_not_depend_on_the_number_of_tokens_if_prefix_stable(
    attention: Attention,
) -> None:
    """A row does not change when later keys or other queries are added to the call."""
    query, key, value = SQUARE.tensors()
    padding = SQUARE.padding()
    padding[:, :20] = True
    padding[1, 20:] = False
    changed = False
    for hidden in (None, padding) if supports("key_padding_mask")(attention) else (None,):
        whole = attention(query, key, value, causal=True, key_padding_mask=hidden)
        for first, last in ((0, 1), (0, 30), (0, 149), (40, 64), (90, 91), (113, 150), (149, 150)):
            part = attention(
                query[:, :, first:last],
                key[:, :, :last],
                value[:, :, :last],
                causal=True,
                key_padding_mask=None if hidden is None else hidden[:, :last],
            )
            if attention.prefix_stable:
                assert_close(part, whole[:, :, first:last], rtol=1e-9, atol=1e-9)
            changed |= not torch.allclose(part, whole[:, :, first:last], rtol=1e-3)
    if attention == variants.create(attention.info.name, **small_settings(attention.info.name)):
        assert changed != attention.prefix_stable, "prefix_stable is False, but no row changes"


@pytest.mark.parametrize("attention", attentions(where=supports("causal")))
def test_a_huge_last_token_does_not_reach_earlier_outputs_through_rounding(
    attention: Attention,
) -> None:
    """In float32 a stabiliser that is shared by the whole sequence would change earlier outputs."""
    query, key, value = SQUARE.tensors(torch.float32)
    before = attention(query, key, value, causal=True)
    key[:, :, -1] *= 1e3
    value[:, :, -1] *= 1e3
    after = attention(query, key, value, causal=True)
    assert bool(after.isfinite().all())
    assert_close(after[:, :, :-1], before[:, :, :-1])


@pytest.mark.parametrize(
    ("attention", "dtype"),
    attentions_and_dtypes(torch.float64, *HALF, where=supports("key_padding_mask")),
)
def test_output_does_not_depend_on_values_at_padding(
    attention: Attention, dtype: torch.dtype
) -> None:
    query, key, value = ODD.tensors(dtype)
    padding = ODD.padding()[:, None, :, None].expand_as(key)
    assert bool(padding[0, 0, 0].all())
    run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]
    for call in calls(attention, ODD):
        if call["key_padding_mask"] is None:
            continue
        answers = []
        for key_filler, value_filler in ((0.5, -0.5), (1e4, 1e4), (math.nan, math.nan)):
            inputs = (
                query,
                torch.where(padding, key_filler, key),
                torch.where(padding, value_filler, value),
            )
            answers.append(run(lambda *x, call=call: attention(*x, **call), inputs))
        for tensor in answers[0]:
            assert bool(tensor.isfinite().all())
        for grad in answers[0][2:]:
            assert not grad[padding].any()
        for other in answers[1:]:
            for mine, right in zip(other, answers[0], strict=True):
                assert_close(mine, right, rtol=0, atol=0)


@pytest.mark.parametrize("attention", attentions(where=supports("key_padding_mask")))
def test_a_fully_padded_sequence_gives_zero_with_zero_gradient(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]
    for call in calls(attention, ODD):
        if call["key_padding_mask"] is None:
            continue
        answers = run(lambda *x, call=call: attention(*x, **call), (query, key, value))
        assert bool(answers[0][0].any())
        for tensor in answers:
            assert not tensor[1].any()
        assert not attention.weights(query, key, **call)[1].any()


@pytest.mark.parametrize("attention", attentions())
def test_sequences_of_a_batch_are_independent(attention: Attention) -> None:
    query, key, value = ODD.tensors()
    for call in calls(attention, ODD):
        mask = call["key_padding_mask"]
        whole = attention(query, key, value, **call)
        order = torch.tensor([2, 0, 1])
        shuffled = attention(
            query[order],
            key[order],
            value[order],
            causal=call["causal"],
            key_padding_mask=None if mask is None else mask[order],
        )
        assert_close(shuffled, whole[order], rtol=1e-12, atol=1e-12)
        alone = attention(
            query[:1],
            key[:1],
            value[:1],
            causal=call["causal"],
            key_padding_mask=None if mask is None else mask[:1],
        )
        assert_close(alone, whole[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", attentions())
def test_heads_are_independent(attention: Attention) -> None:
    """Random draws may differ between heads, so the test changes heads instead of permuting
    them."""
    inputs = ODD.tensors()
    others = ODD.tensors(seed=3)
    before = plainly(attention)(*inputs)
    group = ODD.heads // ODD.kv_heads
    changed = [x.clone() for x in inputs]
    changed[0][:, :group] = others[0][:, :group]
    for which in (1, 2):
        changed[which][:, 0] = 50 * others[which][:, 0]
    after = plainly(attention)(*changed)
    assert_close(after[:, group:], before[:, group:], rtol=1e-12, atol=1e-12)
    assert not torch.equal(after[:, :group], before[:, :group])
