"""Measurement of decoding: the columns of a row with `direction` decode, and detection of a wrong
step."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from bench import inputs
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.workloads.attention import decode_steps, measure_case
from bench.workloads.attention.decode_steps import Decoder
from tests.cases import case, settings
from variants.contract.decoding import Memory
from variants.engines.decode.kv_cache import Ends
from variants.sliding_window import SlidingWindowAttention

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures("fresh")]


def measure(**changes: Any) -> Measurement:
    asked = {"direction": "decode", "causal": True, "seq_len": 100} | changes
    return measure_case.measure(case(**asked), settings())[0]


def test_a_row_measures_one_token_after_a_context() -> None:
    row = measure()
    assert (row.status, row.implementation_used) == (Status.OK, "step")
    assert row.oracle_rows == decode_steps.CHECKED
    # Keys and values of 8 tokens in 2 heads of 16 channels, and free capacity for 64 more.
    given = inputs.load(row.case, {})
    _, state = variants.create("sliding_window", window_size=8).prefill(
        given.query[:, :, :36], given.key[:, :, :36], given.value[:, :, :36]
    )
    assert row.state_bytes is not None
    assert 2 * 2 * 16 * 4 * 8 < state.nbytes <= row.state_bytes <= 2 * state.nbytes
    assert row.impl_error_rel_l2 is not None
    assert row.impl_error_rel_l2 < 1e-6
    assert (row.useful_flops, row.tflops, row.roofline_fraction) == (None, None, None)
    assert row.exact_implementation in ("step", "sdpa")
    assert row.exact_ms_median is not None
    assert row.speedup_vs_exact == row.exact_ms_median / row.time_ms_median


def test_the_error_equals_that_of_the_last_rows_of_the_causal_call() -> None:
    row = measure()
    given = inputs.load(row.case, {})
    window = variants.create("sliding_window", window_size=8)
    full = variants.create("full")
    out, exact = (
        a(*(x.double() for x in (given.query, given.key, given.value)), causal=True)[:, :, 36:]
        for a in (window, full)
    )
    expected = float((out - exact).norm() / exact.norm())
    assert row.approx_error_rel_l2 == pytest.approx(expected, rel=1e-4)
    assert expected > 0.05


def test_decoding_with_torch_is_measured_too() -> None:
    rows = {
        name: measure(variant="full", hyperparameters="", implementation=name)
        for name in ("auto", "sdpa")
    }
    assert rows["auto"].implementation_used == "step"
    assert rows["sdpa"].implementation_used == "sdpa"
    assert rows["sdpa"].time_ms_median == rows["sdpa"].sdpa_ms_median


def test_a_step_that_ignores_the_context_is_incorrect(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: SlidingWindowAttention, memory: Ends, *more: Any, **call: Any) -> Any:
        out, kept = right(self, memory, *more, **call)
        assert isinstance(kept, Ends)
        return out, kept._replace(last=kept.last.last(7))

    right = SlidingWindowAttention.advance
    monkeypatch.setattr(SlidingWindowAttention, "advance", forgetful)
    row = measure()
    assert row.status is Status.INCORRECT
    assert "its own dense definition" in row.reason


@pytest.mark.parametrize("seq_len", [1, 2, 65, 70])
def test_any_context_can_be_decoded(seq_len: int) -> None:
    row = measure(seq_len=seq_len)
    assert row.status is Status.OK
    assert row.oracle_rows == max(1, min(seq_len - 1, decode_steps.CHECKED))


def test_the_context_keeps_its_length_while_a_step_is_timed() -> None:
    given = inputs.load(case(direction="decode", causal=True, seq_len=40), {})
    seen = []

    class Spy(SlidingWindowAttention):
        def advance(self, memory: Memory, length: int, *more: Any) -> Any:
            seen.append(length)
            return super().advance(memory, length, *more)

    decoder = Decoder(Spy(window_size=8), given, given.key)
    assert seen == list(range(1, 40))
    seen.clear()
    outs: list[Tensor] = [decoder() for _ in range(2 * decode_steps.ROUND + 1)]
    assert seen == [*range(40, 40 + decode_steps.ROUND)] * 2 + [40]
    assert torch.equal(outs[0], outs[decode_steps.ROUND])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"causal": False}, "decode needs causal = true, and seq_len equal to key_len"),
        ({"key_len": 200}, "decode needs causal = true, and seq_len equal to key_len"),
        (
            {"projections": "shared"},
            "decode measures only the attention: projections must be none",
        ),
        ({"implementation": "coarse"}, "decode is measured with implementation auto or sdpa"),
        (
            {"variant": "linformer", "hyperparameters": ""},
            "linformer does not support 'step'; it supports: ",
        ),
    ],
)
def test_cases_that_cannot_be_decoded_are_rows_with_a_reason(
    changes: dict[str, Any], reason: str
) -> None:
    row = measure(**changes)
    assert row.status is Status.UNSUPPORTED
    assert re.match(re.escape(reason), row.reason)
