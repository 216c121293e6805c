"""Forecasts: a skipped case could not have ended in time, and a case that might have is
measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from bench.instruments import clock, repeatability
from bench.plan import forecast
from bench.schema.case import Case
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.workloads.attention import measure_case, observe
from tests.cases import case, fresh_worker, good, settings
from variants.contract.attention import Attention
from variants.layer import MultiHeadAttention

QUADRATIC = {"variant": "sliding_window", "hyperparameters": "window_size=1048576"}
WINDOW = {"variant": "sliding_window", "hyperparameters": "window_size=1024"}
Milliseconds = Callable[[int], float]


def told(time: Milliseconds, *lengths: int, of: int, timeout: float = 60.0, **asked: object) -> str:
    """The forecast for a case at one length, after the times of the case at shorter lengths."""
    rows = [good(case(seq_len=n, **asked), time_ms_median=time(n)) for n in lengths]
    return forecast.hopeless(case(seq_len=of, **asked), by_id(*rows), timeout)


def by_id(*rows: Measurement) -> dict[str, Measurement]:
    return {row.case.case_id: row for row in rows}


def test_growth_between_two_lengths_is_extrapolated() -> None:
    reason = told(lambda n: 8e3 * (n / 4096) ** 2, 256, 1024, 4096, of=16384, **QUADRATIC)
    assert reason == (
        "7 calls would take at least 9e+02 s, and 60 s are allowed: a call took 0.5 s at "
        "seq_len 1024 and 8 s at seq_len 4096"
    )
    assert not told(lambda n: 0.5e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)
    assert told(lambda n: 0.6e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)


def test_a_constant_overhead_is_not_extrapolated_as_growth() -> None:
    def time(n: int) -> float:
        return 2e3 + n

    real = forecast.LEAST_CALLS * time(16384) / 1e3
    assert not told(time, 1024, 4096, of=16384, timeout=real)


@pytest.mark.parametrize("lengths", [(256, 1024), (512, 1024), (1024, 2048), (1024, 4096)])
def test_growth_that_slows_down_at_some_length_is_not_extrapolated_as_quadratic(
    lengths: tuple[int, int],
) -> None:
    """The time of a window is linear once the sequence is longer than the window."""

    def time(n: int) -> float:
        return 10.0 * sum(min(i + 1, 1025) for i in range(n)) / 1024

    for of in (8192, 16384):
        real = forecast.LEAST_CALLS * time(of) / 1e3
        assert not told(time, *lengths, of=of, timeout=1.001 * real, causal=True, **WINDOW)
        assert told(time, *lengths, of=of, timeout=0.5 * real, causal=True, **WINDOW)


def test_after_one_length_the_time_grows_with_the_operations() -> None:
    assert not told(lambda n: 2.0e3, 4096, of=16384, **QUADRATIC)
    assert told(lambda n: 2.3e3, 4096, of=16384, **QUADRATIC)


def test_growth_is_extrapolated_where_the_operations_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Attention, "useful_flops", lambda *_, **__: None)
    assert not told(lambda n: 2.0e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)
    assert told(lambda n: 2.3e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)


def test_the_fastest_call_counts() -> None:
    row = good(case(seq_len=4096), time_ms_median=9e9, time_ms_min=1.0)
    assert not forecast.hopeless(case(seq_len=16384), by_id(row), 60)


@pytest.mark.parametrize(
    "other",
    [
        case(seq_len=4096, heads=4),
        case(seq_len=4096, causal=True),
        case(seq_len=4096, dtype="bfloat16"),
        case(seq_len=4096, direction="forward_backward"),
        case(seq_len=4096, hyperparameters="window_size=9"),
        case(seq_len=4096, projections="shared"),
        case(seq_len=4096, key_len=8192),
        case(seq_len=16384),
        case(seq_len=32768),
    ],
)
def test_a_forecast_uses_only_the_same_case_at_shorter_lengths(other: Case) -> None:
    slow = good(other, time_ms_median=1e9)
    assert not forecast.hopeless(case(seq_len=16384), by_id(slow), 60)
    same = good(case(seq_len=4096), time_ms_median=1e9)
    assert forecast.hopeless(case(seq_len=16384), by_id(slow, same), 60)


def test_there_is_no_forecast_from_a_failure_or_for_other_keys() -> None:
    failed = Measurement.of(case(seq_len=4096), Status.ERROR, "bad")
    assert not forecast.hopeless(case(seq_len=16384), by_id(failed), 60)
    same = good(case(seq_len=4096), time_ms_median=1e9)
    assert not forecast.hopeless(case(seq_len=16384, key_len=32768), by_id(same), 60)


def slower(of: Case, *rows: tuple[Case, float, float], seconds: float = 1.0) -> str:
    """The forecast for a case after other cases with these times in ms and speedups over exact
    attention."""
    seen = [good(one, time_ms_median=ms, speedup_vs_exact=speedup) for one, ms, speedup in rows]
    return forecast.slower_than_exact(of, by_id(*seen), seconds)


TOP_K = {"variant": "top_k", "hyperparameters": "top_k=64", "causal": True}


def test_a_slow_case_of_a_method_slower_than_exact_attention_is_skipped() -> None:
    long = case(seq_len=16384, **TOP_K)
    short = case(seq_len=4096, **TOP_K), 250.0, 0.25
    assert slower(long, short) == (
        "at seq_len 4096 a call took 0.25 s, 4 times as long as exact attention, and its "
        "operations grow as fast: about 3.9 s a call, and 1 s are allowed for a method slower than "
        "exact attention"
    )
    assert not slower(long, short, seconds=5.0)
    assert not slower(long, (short[0], 250.0, 0.6))  # too short to decide
    # The longest of the shorter lengths decides.
    assert not slower(long, short, (case(seq_len=8192, **TOP_K), 500.0, 0.9))
    assert slower(long, short, (case(seq_len=1024, **TOP_K), 50.0, 0.9))


def test_operations_that_grow_in_part_with_the_length_alone_do_not_keep_a_slow_method() -> None:
    """The projections of `additive` are a third of its operations at 256 tokens."""
    additive = {"variant": "additive", "hyperparameters": "hidden_dim=64", "causal": True}
    short = case(seq_len=256, head_dim=64, **additive), 17.0, 0.05
    assert slower(case(seq_len=1024, head_dim=64, **additive), short, seconds=0.1)


def test_only_inputs_mask_and_dtype_may_differ_in_the_comparison() -> None:
    long = case(seq_len=16384, **TOP_K)
    others = {"inputs": "smollm2", "layer": 3, "seed": 2, "causal": False, "dtype": "bfloat16"}
    assert slower(long, (case(seq_len=4096, **(TOP_K | others)), 250.0, 0.25))
    for other in (
        {"heads": 4}, {"hyperparameters": "top_k=9"},
        {"direction": "forward_backward"}, {"key_len": 8192},
    ):  # fmt: skip
        assert not slower(long, (case(seq_len=4096, **(TOP_K | other)), 250.0, 0.25)), other


def test_a_method_that_grows_more_slowly_than_exact_attention_is_measured() -> None:
    long = case(seq_len=16384, **WINDOW)
    assert not slower(long, (case(seq_len=4096, **WINDOW), 1e5, 0.25))
    assert slower(case(seq_len=16384, **QUADRATIC), (case(seq_len=4096, **QUADRATIC), 1e5, 0.25))


@pytest.mark.parametrize("slow", [False, True])
def test_a_case_makes_at_least_the_assumed_number_of_calls(
    monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """Also a case that is warm after its first call."""
    calls = []
    closure = observe.timed_call

    def counted(*given: object) -> Callable[[], object]:
        call = closure(*given)
        return lambda: (calls.append(1), call())[1]

    monkeypatch.setattr(observe, "timed_call", counted)
    if slow:
        monkeypatch.setattr(repeatability, "SLOW_MS", 0.0)
        ticks = iter(range(10**6))
        for module in (clock, observe):
            monkeypatch.setattr(module, "perf_counter", lambda: 2.0 * next(ticks))
    with fresh_worker():
        row, _ = measure_case.measure(case(), settings(seconds=0.0), exact=False)
    assert row.status is Status.OK, row.reason
    assert len(calls) == forecast.LEAST_CALLS if slow else len(calls) > forecast.LEAST_CALLS


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        ({"variant": "linear", "hyperparameters": ""}, 7),
        ({"variant": "performer", "hyperparameters": ""}, 7 + 4),
        (
            {"variant": "performer", "hyperparameters": "", "direction": "forward_backward"},
            7 + 4 + 2,
        ),
        ({"variant": "linear", "hyperparameters": "", "direction": "forward_backward"}, 7 + 2),
    ],
)
def test_calls_with_other_seeds_and_for_gradients_are_counted(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], calls: int
) -> None:
    """All calls of a slow case, in the timed closure and outside of it."""
    made = []
    attend = Attention.run

    def counted(self: Attention, *given: Any) -> Tensor:
        made.append(1)
        return attend(self, *given)

    monkeypatch.setattr(Attention, "run", counted)
    monkeypatch.setattr(repeatability, "SLOW_MS", 0.0)
    ticks = iter(range(10**6))
    for module in (clock, observe):
        monkeypatch.setattr(module, "perf_counter", lambda: 2.0 * next(ticks))
    planned = case(seq_len=64, **asked)
    assert forecast.least_calls(planned) == calls
    with fresh_worker():
        row, _ = measure_case.measure(planned, settings(seconds=0.0), exact=False)
    assert row.status is Status.OK, row.reason
    assert len(made) == calls


@pytest.mark.parametrize("projections", ["separate", "shared"])
def test_a_layer_makes_at_least_the_assumed_number_of_calls(projections: str) -> None:
    calls = []
    layer = MultiHeadAttention.forward

    def counted(self: MultiHeadAttention, *given: object, **more: object) -> Tensor:
        calls.append(1)
        return layer(self, *given, **more)

    with pytest.MonkeyPatch.context() as patch, fresh_worker():
        patch.setattr(MultiHeadAttention, "forward", counted)
        asked = case(projections=projections)
        row, _ = measure_case.measure(asked, settings(seconds=0.0), exact=False)
    assert row.status is Status.OK, row.reason
    assert len(calls) >= forecast.LEAST_CALLS
