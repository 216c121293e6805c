"""Foretelling: what is skipped could not have ended in time, and what might have is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor

from bench import forecast, worker
from bench.measurement import Case, Measurement, Status
from tests.cases import case, fresh_worker, good, settings
from variants.contract.attention import Attention
from variants.layer import MultiHeadAttention

QUADRATIC = {"variant": "sliding_window", "hyperparameters": "window_size=1048576"}
WINDOW = {"variant": "sliding_window", "hyperparameters": "window_size=1024"}
Milliseconds = Callable[[int], float]


def told(time: Milliseconds, *lengths: int, of: int, timeout: float = 60.0, **asked: object) -> str:
    """What is said of a case at a length, after those at shorter ones took their time."""
    rows = [good(case(seq_len=n, **asked), time_ms_median=time(n)) for n in lengths]
    return forecast.hopeless(case(seq_len=of, **asked), by_id(*rows), timeout)


def by_id(*rows: Measurement) -> dict[str, Measurement]:
    return {row.case_id: row for row in rows}


def test_growth_goes_on_as_it_was_between_two_lengths() -> None:
    reason = told(lambda n: 8e3 * (n / 4096) ** 2, 256, 1024, 4096, of=16384, **QUADRATIC)
    assert reason == (
        "6 calls would take at least 7.7e+02 s, and 60 s are allowed: a call took 0.5 s at "
        "seq_len 1024 and 8 s at seq_len 4096"
    )
    assert not told(lambda n: 0.6e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)
    assert told(lambda n: 0.7e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)


def test_an_overhead_is_not_taken_for_growth() -> None:
    def time(n: int) -> float:
        return 2e3 + n

    real = 6 * time(16384) / 1e3
    assert not told(time, 1024, 4096, of=16384, timeout=real)


@pytest.mark.parametrize("lengths", [(256, 1024), (512, 1024), (1024, 2048), (1024, 4096)])
def test_what_grows_more_slowly_from_some_length_on_is_not_taken_for_quadratic(
    lengths: tuple[int, int],
) -> None:
    """As a window does once the sequence is longer, whatever it did before."""

    def time(n: int) -> float:
        return 10.0 * sum(min(i + 1, 1025) for i in range(n)) / 1024

    for of in (8192, 16384):
        real = 6 * time(of) / 1e3
        assert not told(time, *lengths, of=of, timeout=1.001 * real, causal=True, **WINDOW)
        assert told(time, *lengths, of=of, timeout=0.5 * real, causal=True, **WINDOW)


def test_from_one_length_it_grows_as_that_does() -> None:
    assert not told(lambda n: 2.4e3, 4096, of=16384, **QUADRATIC)
    assert told(lambda n: 2.6e3, 4096, of=16384, **QUADRATIC)


def test_so_it_does_where_the_operations_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attention, "useful_flops", lambda *_, **__: None)
    assert not told(lambda n: 2.4e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)
    assert told(lambda n: 2.6e3 * (n / 4096) ** 2, 1024, 4096, of=16384, **QUADRATIC)


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
def test_only_the_same_case_at_a_shorter_length_tells_anything(other: Case) -> None:
    slow = good(other, time_ms_median=1e9)
    assert not forecast.hopeless(case(seq_len=16384), by_id(slow), 60)
    same = good(case(seq_len=4096), time_ms_median=1e9)
    assert forecast.hopeless(case(seq_len=16384), by_id(slow, same), 60)


def test_nothing_is_told_from_a_failure_or_of_other_keys() -> None:
    failed = Measurement.of(case(seq_len=4096), Status.ERROR, "bad")
    assert not forecast.hopeless(case(seq_len=16384), by_id(failed), 60)
    same = good(case(seq_len=4096), time_ms_median=1e9)
    assert not forecast.hopeless(case(seq_len=16384, key_len=32768), by_id(same), 60)


def slower(of: Case, *rows: tuple[Case, float, float], seconds: float = 1.0) -> str:
    """What is said of a case after others took so many ms, at such a speedup over exact."""
    seen = [good(one, time_ms_median=ms, speedup_vs_exact=speedup) for one, ms, speedup in rows]
    return forecast.slower_than_exact(of, by_id(*seen), seconds)


TOP_K = {"variant": "top_k", "hyperparameters": "top_k=64", "causal": True}


def test_a_slow_call_of_what_exact_attention_beats_is_not_made() -> None:
    long = case(seq_len=16384, **TOP_K)
    short = case(seq_len=4096, **TOP_K), 250.0, 0.25
    assert slower(long, short) == (
        "at seq_len 4096 a call took 0.25 s, 4 times as long as exact attention, and its "
        "operations grow as fast: about 3.9 s a call, and 1 s are allowed for a method slower than "
        "exact attention"
    )
    assert not slower(long, short, seconds=5.0)
    assert not slower(long, (short[0], 250.0, 0.6))  # too little to be sure of
    # The longest of the shorter lengths tells.
    assert not slower(long, short, (case(seq_len=8192, **TOP_K), 500.0, 0.9))
    assert slower(long, short, (case(seq_len=1024, **TOP_K), 50.0, 0.9))


def test_inputs_mask_and_dtype_do_not_matter_to_it_and_all_else_does() -> None:
    long = case(seq_len=16384, **TOP_K)
    others = {"inputs": "smollm2", "layer": 3, "seed": 2, "causal": False, "dtype": "bfloat16"}
    assert slower(long, (case(seq_len=4096, **(TOP_K | others)), 250.0, 0.25))
    for other in (
        {"heads": 4}, {"hyperparameters": "top_k=9"},
        {"direction": "forward_backward"}, {"key_len": 8192},
    ):  # fmt: skip
        assert not slower(long, (case(seq_len=4096, **(TOP_K | other)), 250.0, 0.25)), other


def test_what_grows_more_slowly_than_exact_attention_may_still_win() -> None:
    long = case(seq_len=16384, **WINDOW)
    assert not slower(long, (case(seq_len=4096, **WINDOW), 1e5, 0.25))
    assert slower(case(seq_len=16384, **QUADRATIC), (case(seq_len=4096, **QUADRATIC), 1e5, 0.25))


@pytest.mark.parametrize("slow", [False, True])
def test_a_case_makes_as_many_calls_at_least(monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """Also one that is warm after its first call."""
    calls = []
    closure = worker._closure

    def counted(*given: object) -> Callable[[], object]:
        call = closure(*given)
        return lambda: (calls.append(1), call())[1]

    monkeypatch.setattr(worker, "_closure", counted)
    if slow:
        ticks = iter(range(10**6))
        monkeypatch.setattr(worker.time, "perf_counter", lambda: 2.0 * next(ticks))
    with fresh_worker():
        row, _ = worker.measure(replace(case()), settings(seconds=0.0), exact=False)
    assert row.status is Status.OK, row.reason
    assert len(calls) == forecast.LEAST_CALLS if slow else len(calls) > forecast.LEAST_CALLS


@pytest.mark.parametrize("projections", ["separate", "shared"])
def test_a_layer_makes_as_many_calls_at_least(projections: str) -> None:
    calls = []
    layer = MultiHeadAttention.forward

    def counted(self: MultiHeadAttention, *given: object, **more: object) -> Tensor:
        calls.append(1)
        return layer(self, *given, **more)

    with pytest.MonkeyPatch.context() as patch, fresh_worker():
        patch.setattr(MultiHeadAttention, "forward", counted)
        asked = case(projections=projections)
        row, _ = worker.measure(asked, settings(seconds=0.0), exact=False)
    assert row.status is Status.OK, row.reason
    assert len(calls) >= forecast.LEAST_CALLS
