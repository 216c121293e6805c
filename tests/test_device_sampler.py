"""Times of calls on a GPU, on a simulated stream: no time of the host is in them."""

from __future__ import annotations

import itertools

import pytest
import torch

from bench.instruments import clock
from bench.instruments.clock import Samples
from bench.instruments.device_sampler import MOST_DOUBLINGS, SLOW_MS
from bench.instruments.stream import CudaStream, settled_rate
from tests.fake_gpu import FakeGpu, on_fake_gpu

CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return on_fake_gpu(monkeypatch, FakeGpu())


@pytest.mark.parametrize(
    ("launches", "device_ms", "host_ms"), [(1, 0.01, 0.12), (5, 0.05, 0.1), (400, 2.0, 2.6)]
)
def test_the_time_of_a_launch_bound_call_is_that_of_the_device(
    gpu: FakeGpu, launches: int, device_ms: float, host_ms: float
) -> None:
    samples = clock.measure(gpu.call(launches, device_ms, host_ms), CUDA, 0.2)
    # The second event itself is a small part of the span.
    assert samples.quartiles[1] == pytest.approx(device_ms, abs=0.006)
    assert samples.runs_ahead is True
    assert samples.launch_bound is True
    assert min(samples.wall_ms) >= host_ms


def test_the_filler_follows_the_time_of_the_host(gpu: FakeGpu) -> None:
    clock.measure(gpu.call(10, 0.1, 3.0), CUDA, 0.2)
    assert gpu.fillers[-1] == pytest.approx(4.5, abs=0.2)


def test_a_call_that_fills_the_device_is_not_launch_bound(gpu: FakeGpu) -> None:
    samples = clock.measure(gpu.call(20, 8.0, 0.2), CUDA, 0.2)
    assert samples.quartiles[1] == pytest.approx(8.0, abs=0.006)
    assert (samples.runs_ahead, samples.launch_bound) == (True, False)


def test_a_call_that_waits_for_the_device_has_host_time_in_its_time(gpu: FakeGpu) -> None:
    fillers = len(gpu.fillers)
    samples = clock.measure(gpu.call(5, 0.5, 0.6, waits=True), CUDA, 0.2)
    assert (samples.runs_ahead, samples.launch_bound) == (False, None)
    assert samples.quartiles[1] >= 0.6
    # No sample has filler work: the call would wait for it too.
    assert len(gpu.fillers) - fillers == 2


def test_the_host_cannot_run_ahead_of_more_launches_than_the_queue_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = on_fake_gpu(monkeypatch, FakeGpu(depth=100))
    samples = clock.measure(gpu.call(3000, 6.0, 18.0), CUDA, 0.2)
    assert (samples.runs_ahead, samples.launch_bound) == (False, None)
    assert samples.quartiles[1] == pytest.approx(18.0, rel=0.05)


def test_a_host_that_is_interrupted_once_can_still_run_ahead(gpu: FakeGpu) -> None:
    delays = iter([0.1, 0.1, 0.1, 50.0])  # the last one is in the probe

    def call() -> None:
        gpu.work(0.05, next(delays, 0.1))

    assert clock.measure(call, CUDA, 0.2, warm=True).runs_ahead is True


@pytest.mark.parametrize(
    ("host_ms", "ahead", "times"), [(0.9, True, 4), (40.0, False, 2**MOST_DOUBLINGS)]
)
def test_filler_that_is_too_short_is_made_longer_or_given_up(
    gpu: FakeGpu, host_ms: float, ahead: bool, times: int
) -> None:
    first = iter([0.1] * 4)  # the host is slower after the filler was chosen

    def call() -> None:
        gpu.work(0.05, next(first, host_ms))

    samples = clock.measure(call, CUDA, 0.2, warm=True)
    assert samples.runs_ahead is ahead
    assert gpu.fillers[-1] == pytest.approx(0.215 * times, rel=0.02)
    expected = 0.05 if ahead else host_ms
    assert samples.quartiles[1] == pytest.approx(expected, abs=0.06 if not ahead else 0.006)


def test_the_rate_of_filler_work_is_that_of_the_settled_clock() -> None:
    rates = iter([300.0] * 2 + [900.0, 1500.0, 1800.0])
    slept = []

    def sleep(cycles: int) -> float:
        slept.append(cycles / 1e3 / next(rates, 1900.0))
        return slept[-1]

    assert settled_rate(sleep) == pytest.approx(1900e3)
    assert sum(slept) >= 50


def test_a_clock_that_does_not_settle_ends_the_calibration() -> None:
    rates = itertools.cycle([1000.0, 2000.0])
    calls = []

    def sleep(cycles: int) -> float:
        calls.append(cycles)
        return cycles / 1e3 / next(rates)

    assert settled_rate(sleep) == pytest.approx(2000e3)
    assert len(calls) < 300


def test_a_slow_call_is_made_as_often_as_on_a_cpu(gpu: FakeGpu) -> None:
    calls = 0
    work = gpu.call(30, 2000.0, 1.0)

    def call() -> None:
        nonlocal calls
        calls += 1
        work()

    samples = clock.measure(call, CUDA, 0.2, warm=True)
    assert calls == clock.MINIMUM_SAMPLES == len(samples.device_ms) == len(samples.wall_ms)
    assert samples.quartiles[1] == pytest.approx(2000.0, rel=1e-3)
    assert (samples.runs_ahead, samples.launch_bound) == (True, False)
    assert not gpu.fillers


def test_a_slow_call_that_waits_may_have_host_time_in_its_time(gpu: FakeGpu) -> None:
    samples = clock.measure(gpu.call(30, 2 * SLOW_MS, 1.0, waits=True), CUDA, 0.2)
    assert (samples.runs_ahead, samples.launch_bound) == (False, None)


def test_each_sample_has_a_cold_cache(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    flush, work = gpu.flush, gpu.call(1, 0.01, 0.05)
    monkeypatch.setattr(gpu, "flush", lambda: (order.append("flush"), flush()))

    def call() -> None:
        order.append("call")
        work()

    samples = clock.measure(call, CUDA, 0.01, warm=True)
    pairs = list(itertools.pairwise(order))
    assert pairs.count(("flush", "call")) >= len(samples.device_ms)


def test_the_watch_is_called_while_the_device_works(gpu: FakeGpu) -> None:
    ahead: list[bool] = []
    clock.measure(
        gpu.call(5, 0.5, 0.1), CUDA, 0.01, watch=lambda: ahead.append(gpu.free > gpu.host)
    )
    assert ahead
    assert all(ahead)


def test_a_cpu_has_neither() -> None:
    samples = clock.measure(lambda: None, torch.device("cpu"), 0.001, warm=True)
    assert (samples.runs_ahead, samples.launch_bound) == (None, None)


def test_launch_bound_compares_medians() -> None:
    assert Samples([1.0, 1.0, 9.0], [1.25, 1.25, 1.0], True).launch_bound is True
    assert Samples([1.0, 1.0, 0.1], [1.15, 1.15, 9.0], True).launch_bound is False


@pytest.mark.gpu
@pytest.mark.serial
def test_a_tiny_kernel_takes_microseconds_and_is_launch_bound() -> None:
    x = torch.zeros(64, device="cuda")
    samples = clock.measure(lambda: x.add_(1).mul_(1), CUDA, 0.1)
    assert samples.quartiles[1] < 0.02
    assert samples.runs_ahead is True


@pytest.mark.gpu
@pytest.mark.serial
def test_a_call_that_reads_a_number_waits() -> None:
    x = torch.zeros(64, device="cuda")
    assert clock.measure(lambda: x.sum().item(), CUDA, 0.1).runs_ahead is False


@pytest.mark.gpu
@pytest.mark.serial
@pytest.mark.parametrize("ms", [1.0, 20.0])
def test_filler_work_lasts_as_long_as_asked(ms: float) -> None:
    stream = CudaStream(CUDA)
    start, stop = stream.event(), stream.event()
    stream.busy(ms)
    start.record()
    stream.busy(ms)
    stop.record()
    stream.synchronize()
    assert 0.8 * ms <= start.elapsed_time(stop) <= 2 * ms
