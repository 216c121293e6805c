"""The clock: samples, the stopping rule, and the confidence interval of the median."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable

import pytest
import torch

from bench.instruments import clock
from bench.instruments.clock import Samples, half_width, measure

CPU = torch.device("cpu")


class FakeTime:
    """A clock that advances only while a call of known duration runs."""

    def __init__(self, milliseconds: Iterable[float] | Callable[[float], float]) -> None:
        self.now = 1000.0
        self.calls = 0
        self._durations = milliseconds if callable(milliseconds) else iter(milliseconds)

    def perf_counter(self) -> float:
        return self.now

    def call(self) -> None:
        durations = self._durations
        took = durations(self.now - 1000.0) if callable(durations) else next(durations)
        self.now += took / 1e3
        self.calls += 1


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTime]:
    def install(milliseconds: Iterable[float] | Callable[[float], float]) -> FakeTime:
        fake = FakeTime(milliseconds)
        monkeypatch.setattr(clock, "perf_counter", fake.perf_counter)
        return fake

    return install


@pytest.mark.serial
def test_the_time_of_a_sleep_is_its_duration() -> None:
    asleep = []

    def call() -> None:
        start = time.perf_counter()
        time.sleep(0.02)
        asleep.append(1e3 * (time.perf_counter() - start))

    samples = measure(call, CPU, 0.1)
    own = asleep[-len(samples.device_ms) :]
    assert min(samples.device_ms) >= 20
    assert all(sample >= slept for sample, slept in zip(samples.device_ms, own, strict=True))
    assert samples.quartiles[1] == pytest.approx(statistics.median(own), rel=0.02)


def test_samples_are_single_calls_in_milliseconds_in_call_order(
    at: Callable[..., FakeTime],
) -> None:
    fake = at(itertools.count(1.25))
    samples = measure(fake.call, CPU, 0.5, warm=True)
    assert samples.device_ms == pytest.approx([1.25 + i for i in range(len(samples.device_ms))])
    assert samples.wall_ms == samples.device_ms


def test_the_median_is_not_the_mean() -> None:
    assert Samples([1.0, 2.0, 3.0, 4.0, 1000.0], []).quartiles == (2.0, 3.0, 4.0)
    assert Samples([4.0, 2.0, 1.0, 3.0], []).quartiles == (1.75, 2.5, 3.25)


def test_six_equal_samples_are_enough(at: Callable[..., FakeTime]) -> None:
    fake = at(itertools.repeat(2.0))
    assert len(measure(fake.call, CPU, 10.0).device_ms) == 6


def test_noisy_samples_are_taken_until_the_time_is_used_up(at: Callable[..., FakeTime]) -> None:
    fake = at(itertools.cycle([1.0, 3.0]))
    samples = measure(fake.call, CPU, 0.2, warm=True)
    assert 200 - 1e-6 < sum(samples.device_ms) <= 200 + 3
    assert fake.calls == len(samples.device_ms)


def test_a_slow_call_is_sampled_three_times_and_warmed_up_once(at: Callable[..., FakeTime]) -> None:
    fake = at(itertools.chain([70_000.0], itertools.repeat(10_000.0)))
    assert measure(fake.call, CPU, 0.2).device_ms == pytest.approx([10_000.0] * 3)
    assert fake.calls == 4


def test_a_warm_call_is_not_warmed_up(at: Callable[..., FakeTime]) -> None:
    fake = at(itertools.repeat(10_000.0))
    assert len(measure(fake.call, CPU, 0.2, warm=True).device_ms) == fake.calls == 3


def test_the_warm_up_lasts_until_the_call_has_settled(at: Callable[..., FakeTime]) -> None:
    fake = at(lambda spent: max(2.0, 20.0 - 100 * spent))  # settles after 0.18 s
    assert measure(fake.call, CPU, 0.2).device_ms == pytest.approx([2.0] * 6)


def test_the_warm_up_of_a_fast_call_lasts_for_the_warm_up_time(at: Callable[..., FakeTime]) -> None:
    fake = at(itertools.repeat(0.5))
    samples = measure(fake.call, CPU, 0.2)
    warm_up = fake.now - 1000.0 - sum(samples.device_ms) / 1e3
    assert clock.WARM_UP_SECONDS <= warm_up <= clock.WARM_UP_SECONDS + 0.005


def test_the_warm_up_of_a_call_that_never_settles_has_a_limit(at: Callable[..., FakeTime]) -> None:
    fake = at(itertools.cycle([1.0] * 5 + [2.0] * 5))
    samples = measure(fake.call, CPU, 0.2)
    warm_up = fake.now - 1000.0 - sum(samples.device_ms) / 1e3
    assert 5 * clock.WARM_UP_SECONDS <= warm_up <= 5 * clock.WARM_UP_SECONDS + 0.010


def test_a_call_below_a_microsecond_is_not_rounded_to_zero(at: Callable[..., FakeTime]) -> None:
    fake = at(itertools.repeat(0.00025))
    assert measure(fake.call, CPU, 0.2).quartiles[1] == pytest.approx(0.00025, rel=1e-3)


def test_the_interval_of_fewer_than_six_samples_is_infinite() -> None:
    assert half_width([1.0] * 5) == math.inf
    assert half_width([1.0] * 6) == 0


def test_the_half_width_of_known_samples() -> None:
    assert half_width([3.0, 1.0, 6.0, 2.0, 5.0, 4.0]) == pytest.approx(2.5 / 3.5)
    # The 40th and the 61st of a hundred samples, as in tables of the sign test.
    assert half_width([float(i) for i in range(100, 0, -1)]) == pytest.approx(21 / 2 / 50.5)


def test_the_half_width_does_not_depend_on_the_unit() -> None:
    samples = [random.Random(3).expovariate(1) for _ in range(40)]
    assert half_width([1e-6 * x for x in samples]) == pytest.approx(half_width(samples))


def bounds(count: int) -> tuple[int, int]:
    """The indices of the order statistics that bound the interval. The samples are powers of two,
    so each pair has a different difference."""
    samples = [2.0**i for i in range(count)]
    difference = 2 * half_width(samples) * statistics.median(samples)
    high = math.ceil(math.log2(difference))
    return round(math.log2(2.0**high - difference)), high


@pytest.mark.parametrize("count", [6, 7, 8, 9, 11, 16, 21, 26, 40])
def test_the_interval_covers_the_median_in_95_percent_of_samples(count: int) -> None:
    low, high = bounds(count)
    assert low == count - 1 - high
    exactly = 1 - 2 * sum(math.comb(count, i) for i in range(low + 1)) / 2**count
    assert exactly >= 0.95
    # An interval narrower by one order statistic at each end would cover less, so this is the
    # narrowest one.
    narrower = exactly - 2 * math.comb(count, low + 1) / 2**count
    assert narrower < 0.95
    draw = random.Random(count)
    trials = 4000
    covered = 0
    for _ in range(trials):
        ordered = sorted(draw.expovariate(1) for _ in range(count))
        covered += ordered[low] <= math.log(2) <= ordered[high]
    spread = math.sqrt(exactly * (1 - exactly) / trials)
    assert covered / trials == pytest.approx(exactly, abs=4 * spread)
