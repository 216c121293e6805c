"""Prefill and steps: token by token a variant gives the rows of its causal call.

As in `tests/contract`, no variant is named. Every variant that declares `step` is tested, and every
other variant must raise an error.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.contract.attentions import attentions, supports
from tests.contract.shapes import CUDA, HALF, Shape
from variants import REGISTRY, Attention, State, UnsupportedError
from variants.engines.decode import decode_attend, kv_cache

# Queries, keys and values of 61 tokens: longer than a window, a segment and the initial capacity of
# a buffer.
SHAPES = {
    "one head": Shape(1, 1, 1, 61, 61),
    "grouped heads, odd channels": Shape(2, 6, 2, 61, 61, head_dim=5),
    "explicit scale": Shape(2, 2, 1, 61, 61, scale=0.7),
}
GROUPED = SHAPES["grouped heads, odd channels"]
# Number of tokens of the prefill and of each step.
CUTS = ((1, 1), (8, 1), (30, 3), (30, 5), (3, 40), (60, 1))
STEPPING = supports("step")


@pytest.fixture(autouse=True)
def _small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes: buffers that grow, steps with more rows than one block, keys converted in
    pieces."""
    monkeypatch.setattr(kv_cache, "ROOM", 7)
    monkeypatch.setattr(decode_attend, "FEW", 4)
    monkeypatch.setattr(decode_attend, "WIDENED", 64)


def some(tensors: tuple[Tensor, ...], start: int, stop: int) -> list[Tensor]:
    return [x[:, :, start:stop] for x in tensors]


def decoded(
    attention: Attention,
    tensors: tuple[Tensor, ...],
    cut: int,
    step: int,
    padding: Tensor | None = None,
    bias: Tensor | None = None,
    **call: Any,
) -> Tensor:
    """A prefill of `cut` tokens, then steps of `step` tokens. `bias` has the layout of a call on
    all tokens and covers at least `cut` tokens."""
    total = tensors[0].shape[2]
    outs = []
    state: State | None = None
    for start, stop in [(0, cut), *((i, min(i + step, total)) for i in range(cut, total, step))]:
        own = dict(call)
        if padding is not None:
            own["key_padding_mask"] = padding[:, start:stop]
        if bias is not None:
            # Entry `total - 1` is the bias of distance 0; the last visible key here is number stop
            # - 1.
            own["distance_bias"] = bias[:, total - stop :][:, : stop - start + stop - 1]
        given = some(tensors, start, stop)
        if state is None:
            out, state = attention.prefill(*given, **own)
        else:
            out, state = attention.step(state, *given, **own)
        assert state.length == stop
        outs.append(out)
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("attention", attentions("small", "minimum", where=STEPPING))
def test_steps_give_the_rows_of_the_causal_call(attention: Attention, shape: Shape) -> None:
    tensors = shape.tensors()
    expected = attention(*tensors, causal=True, scale=shape.scale)
    for cut, step in CUTS:
        assert_close(decoded(attention, tensors, cut, step, scale=shape.scale), expected)


@pytest.mark.parametrize("attention", attentions("small", where=STEPPING))
def test_steps_ignore_the_values_at_padding(attention: Attention) -> None:
    query, key, value = GROUPED.tensors()
    padding = GROUPED.padding()
    key, value = (x.masked_fill(padding[:, None, :, None], torch.nan) for x in (key, value))
    tensors = query, key, value
    expected = attention(*tensors, causal=True, key_padding_mask=padding)
    assert expected.isfinite().all()
    for cut, step in CUTS:
        assert_close(decoded(attention, tensors, cut, step, padding), expected)


@pytest.mark.parametrize("attention", attentions("small", where=STEPPING))
def test_padding_may_begin_or_end_between_steps(attention: Attention) -> None:
    tensors = GROUPED.tensors()
    padding = torch.zeros(2, 61, dtype=torch.bool)
    padding[:, 33:35] = True
    expected = attention(*tensors, causal=True, key_padding_mask=padding)
    _, state = attention.prefill(*some(tensors, 0, 33))
    _, state = attention.step(state, *some(tensors, 33, 35), key_padding_mask=padding[:, 33:35])
    for token in range(35, 61):
        out, state = attention.step(state, *some(tensors, token, token + 1))
        assert_close(out, expected[:, :, token : token + 1])


@pytest.mark.parametrize("attention", attentions("small", where=supports("step", "distance_bias")))
def test_steps_take_a_distance_bias(attention: Attention) -> None:
    tensors = GROUPED.tensors()
    bias = torch.randn(6, 121, dtype=torch.float64)
    expected = attention(*tensors, causal=True, distance_bias=bias)
    padding = GROUPED.padding()
    padded = attention(*tensors, causal=True, distance_bias=bias, key_padding_mask=padding)
    for cut, step in CUTS:
        assert_close(decoded(attention, tensors, cut, step, bias=bias), expected)
        assert_close(decoded(attention, tensors, cut, step, padding, bias), padded)


@pytest.mark.parametrize("attention", attentions("small", where=STEPPING))
def test_learned_parameters_are_used_in_steps(attention: Attention) -> None:
    learned = attention.init_parameters(6, 5, seed=3)
    learned = {name: tensor.double() + 0.1 for name, tensor in learned.items()}
    tensors = GROUPED.tensors()
    expected = attention(*tensors, causal=True, parameters=learned)
    assert_close(decoded(attention, tensors, 20, 1, parameters=learned), expected)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("attention", attentions(where=STEPPING))
def test_the_error_of_half_types_is_at_most_their_own_rounding(
    attention: Attention, dtype: torch.dtype, device: str
) -> None:
    tensors = GROUPED.tensors(dtype, device=device)
    exact = attention(*(x.double() for x in tensors), causal=True)
    out = decoded(attention, tensors, 30, 1)
    assert out.dtype is dtype
    bound = 2 * torch.finfo(dtype).eps
    assert (out.double() - exact).norm() <= bound * exact.norm()


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("attention", attentions(where=STEPPING))
def test_float32_steps_equal_the_float32_call(attention: Attention, device: str) -> None:
    tensors = GROUPED.tensors(torch.float32, device=device)
    expected = attention(*tensors, causal=True)
    assert_close(decoded(attention, tensors, 30, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", attentions("small", "defaults", where=STEPPING))
def test_one_state_may_be_continued_several_times(attention: Attention) -> None:
    tensors = GROUPED.tensors()
    others = GROUPED.tensors(seed=9)
    _, state = attention.prefill(*some(tensors, 0, 20))
    for token in range(20, 40):
        given = some(tensors, token, token + 1)
        first, after = attention.step(state, *given)
        # Repeat with the state and with a copy; then continue with other tokens, twice as many.
        again, _ = attention.step(state, *given)
        assert torch.equal(again, first)
        copied, _ = attention.step(copy.deepcopy(state), *given)
        assert torch.equal(copied, first)
        _, other = attention.step(state, *some(others, token, token + 1))
        attention.step(other, *some(others, token + 1, token + 2))
        state = after
    expected = attention(*some(tensors, 0, 40), causal=True)
    assert_close(first, expected[:, :, -1:])


@pytest.mark.parametrize("attention", attentions("small", where=STEPPING))
def test_states_are_valid_after_inference_mode_and_after_the_inputs_change(
    attention: Attention,
) -> None:
    tensors = GROUPED.tensors()
    expected = attention(*tensors, causal=True)
    given = [x.clone() for x in some(tensors, 0, 30)]
    with torch.inference_mode():
        _, state = attention.prefill(*given)
    for tensor in given:
        tensor.fill_(torch.nan)
    for token in range(30, 45):
        with torch.inference_mode(token % 2 == 0):
            out, state = attention.step(state, *some(tensors, token, token + 1))
            assert_close(out, expected[:, :, token : token + 1])


@pytest.mark.parametrize(
    "attention",
    attentions("small", where=lambda a: STEPPING(a) and a.info.time != "n²·d"),
)
def test_the_state_does_not_grow_with_the_context_if_declared(
    attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(tokens: int) -> int:
        shape = Shape(1, 4, 2, tokens, tokens)
        _, state = attention.prefill(*shape.tensors())
        most = state.nbytes
        for token in range(40):
            _, state = attention.step(state, *some(shape.tensors(seed=1), token, token + 1))
            most = max(most, state.nbytes)
        return most

    monkeypatch.undo()
    assert held(1024) <= held(64)


def test_the_state_of_full_attention_is_the_keys_and_values_and_little_more() -> None:
    attention = variants.create("full")
    shape = Shape(1, 4, 2, 1024, 1024, head_dim=16)
    _, state = attention.prefill(*shape.tensors(torch.float32))
    least = 2 * 2 * 1024 * 16 * 4
    assert least < state.nbytes <= 1.13 * least


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_variant_without_step_raises(name: str) -> None:
    attention = variants.create(name)
    if "step" in attention.info.supports:
        assert "causal" in attention.info.supports
        return
    tensors = GROUPED.tensors()
    with pytest.raises(UnsupportedError, match=f"{name} does not support 'step'; it supports: "):
        attention.prefill(*tensors)
    state = variants.create("full").prefill(*tensors)[1]
    with pytest.raises(UnsupportedError, match=f"{name} does not support 'step'; it supports: "):
        attention.step(state, *tensors)


def test_a_gradient_is_refused() -> None:
    attention = variants.create("full")
    query, key, value = GROUPED.tensors()
    _, state = attention.prefill(query, key, value)
    value.requires_grad_()
    message = re.escape(
        "full: decoding has no gradient; call prefill and step under torch.no_grad()"
    )
    with pytest.raises(UnsupportedError, match=message):
        attention.prefill(query, key, value)
    with pytest.raises(UnsupportedError, match=message):
        attention.step(state, query, key, value)
    with torch.no_grad():
        attention.step(state, query, key, value)


def test_a_state_of_another_attention_or_shape_is_refused() -> None:
    attention = variants.create("sliding_window", window_size=4)
    tensors = GROUPED.tensors()
    _, state = attention.prefill(*tensors)
    other = dataclasses.replace(attention, window_size=5)
    with pytest.raises(ValueError, match=r"window_size=5; got one of .*window_size=4$"):
        other.step(state, *tensors)
    for wrong, found in (
        ([x[:1] for x in tensors], "1, 6, 2, 5, torch.float64, cpu"),
        ([x.float() for x in tensors], "2, 6, 2, 5, torch.float32, cpu"),
        ([x.to("meta") for x in tensors], "2, 6, 2, 5, torch.float64, meta"),
    ):
        kept = re.escape("= (2, 6, 2, 5, torch.float64, cpu); ")
        with pytest.raises(ValueError, match=rf"{kept}got \({found}\)$"):
            attention.step(state, *wrong)
    query, key, value = tensors
    with pytest.raises(ValueError, match=r"then query, key and value; got a .* of type Tensor$"):
        attention.step(query, state, key, value)  # type: ignore[arg-type]


def test_a_prefill_needs_as_many_queries_as_keys() -> None:
    attention = variants.create("full")
    query, key, value = GROUPED.tensors()
    with pytest.raises(ValueError, match="got 60 queries and 61 keys"):
        attention.prefill(query[:, :, 1:], key, value)


@pytest.mark.parametrize("attention", attentions("small", where=supports("step", "distance_bias")))
def test_a_bias_that_covers_too_few_tokens_is_refused(attention: Attention) -> None:
    tensors = GROUPED.tensors()
    _, state = attention.prefill(*tensors)
    with pytest.raises(ValueError, match=r"distance_bias must be .* = \(6, 62\)"):
        attention.step(state, *some(tensors, 0, 1), distance_bias=torch.zeros(6, 61))
