"""Whether results repeat: two calls, and a sequence alone and in a batch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from bench.instruments import repeatability
from bench.instruments.repeatability import is_batch_invariant, is_deterministic, same_bits
from bench.schema.measurement import Measurement
from bench.workloads.attention import measure_case
from tests.cases import case, fresh_worker, settings
from variants import UnsupportedError
from variants.sliding_window import SlidingWindowAttention

WINDOW = variants.create("sliding_window", window_size=8)


def tokens(batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, batch, 2, 32, 16, generator=generator)
    return drawn[0], drawn[1], drawn[2]


def test_bits_are_compared_not_values() -> None:
    zero = torch.zeros(3)
    assert same_bits(zero, torch.zeros(3))
    assert same_bits(zero * torch.nan, zero * torch.nan)
    assert not same_bits(zero, -zero)
    assert not same_bits(zero.bfloat16(), zero.bfloat16() + 2**-8)


def test_a_call_that_writes_to_one_place_is_compared_with_its_first_output() -> None:
    place = torch.zeros(4)
    assert is_deterministic(lambda: place)
    assert not is_deterministic(lambda: place.add_(1))


def attend_with(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    right = SlidingWindowAttention.attend
    monkeypatch.setattr(
        SlidingWindowAttention, "attend", lambda self, *given: wrong(right(self, *given))
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_a_kernel_that_depends_on_the_batch_is_found(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_batch_invariant(WINDOW, *tokens(batch), True) is True
    attend_with(monkeypatch, lambda out: out * (1 + 1e-6 * len(out)))
    assert is_batch_invariant(WINDOW, *tokens(batch), True) is False


def test_the_second_sequence_differs_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that mixes sequences would otherwise go unnoticed."""
    attend_with(monkeypatch, lambda out: out.mean(0, keepdim=True).expand_as(out))
    assert is_batch_invariant(WINDOW, *tokens(), True) is False


def test_query_and_key_stay_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    query, _, value = tokens()
    lsh = variants.create("lsh", bucket_size=8, shared_qk=True)
    assert is_batch_invariant(lsh, query, query, value, True) is True


@pytest.mark.parametrize("error", [UnsupportedError("no"), MemoryError(), torch.OutOfMemoryError()])
def test_a_batch_that_is_refused_is_not_tested(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(out: Tensor) -> Tensor:
        raise error

    attend_with(monkeypatch, refuse)
    assert is_batch_invariant(WINDOW, *tokens(), True) is None


def test_slow_calls_are_not_repeated() -> None:
    def call() -> Tensor:
        raise AssertionError

    found = repeatability.columns(
        WINDOW, call, tokens(), causal=True, call_ms=repeatability.SLOW_MS + 1, first_ms=1.0
    )
    assert found == {"deterministic": None, "batch_invariant": None}


def test_another_batch_is_not_compiled() -> None:
    out = torch.zeros(2)
    found = repeatability.columns(
        WINDOW, lambda: out, tokens(), causal=True, call_ms=1.0, first_ms=5000.0
    )
    assert found == {"deterministic": True, "batch_invariant": None}


def measure(**changes: Any) -> Measurement:
    with fresh_worker():
        return measure_case.measure(case(**changes), settings())[0]


@pytest.mark.serial
class TestRows:
    def test_a_forward_row_says_whether_it_repeats(self) -> None:
        row = measure(batch=2)
        assert (row.deterministic, row.batch_invariant) == (True, True)

    def test_a_method_with_noise_is_not_deterministic(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noise = itertools.count()
        attend_with(monkeypatch, lambda out: out * (1 + 1e-6 * (next(noise) % 2)))
        row = measure()
        assert row.status == "ok", row.reason
        assert row.deterministic is False

    @pytest.mark.parametrize(
        "changes",
        [
            {"direction": "forward_backward"},
            {"direction": "decode", "causal": True},
            {"projections": "separate"},
        ],
    )
    def test_other_rows_are_empty(self, changes: dict[str, Any]) -> None:
        row = measure(**changes)
        assert (row.deterministic, row.batch_invariant) == (None, None)
