"""Times a call: warms up until times are stable, then samples until the median is precise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from bench.instruments.device_sampler import DeviceSampler
from bench.instruments.stream import CudaStream, Stream

WARM_UP_SECONDS = 0.1
MINIMUM_SAMPLES = 3
INTERVAL = {
    "cpu": 0.02,
    "cuda": 0.01,
}  # sampling stops at this relative half width of the median's 95 % interval
LAUNCH_BOUND = 1.2  # times the device time; a longer wall time is mostly time of the host


@dataclass(frozen=True)
class Samples:
    """Times of single calls in ms, in the order of the calls.

    `runs_ahead` is whether the host can enqueue the whole call before the device begins it, so that
    the device times contain no time of the host; None on a CPU.
    """

    device_ms: list[float]
    wall_ms: list[float]
    runs_ahead: bool | None = None

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """First quartile, median, third quartile of the device time."""
        low, middle, high = statistics.quantiles(self.device_ms, n=4, method="inclusive")
        return low, middle, high

    @property
    def launch_bound(self) -> bool | None:
        """Whether the host takes longer to launch the call than the device to run it; None if the
        device times contain time of the host."""
        if not self.runs_ahead:
            return None
        return statistics.median(self.wall_ms) > LAUNCH_BOUND * self.quartiles[1]


def half_width(samples: list[float]) -> float:
    """Half the 95 % interval of the median by order statistics, relative to the median."""
    if len(samples) < 6:  # no pair of order statistics covers 95 %
        return math.inf
    ordered = sorted(samples)
    # Samples outside the interval on each side; rounded down so that it always covers 95 %.
    beyond = max(0, math.floor((len(ordered) - 1 - 1.96 * math.sqrt(len(ordered))) / 2))
    spread = ordered[-1 - beyond] - ordered[beyond]
    return spread / 2 / statistics.median(ordered)


def measure(
    call: Callable[[], object],
    device: torch.device,
    seconds: float,
    *,
    warm: bool = False,
    watch: Callable[[], None] | None = None,
) -> Samples:
    """Time `call` for about `seconds` and at least `MINIMUM_SAMPLES` times.

    A warm-up comes first, unless the call is `warm` already. On a GPU, the device time is the time
    between two events on the stream, with a cold L2 cache and without time of the host
    (`device_sampler`). The wall time is the time of a call and the synchronisation after it. There,
    `watch` is called from time to time while the device works.
    """
    stream = CudaStream(device) if device.type == "cuda" else None
    if not warm:
        _warm_up(call, stream)
    sampler = None if stream is None else DeviceSampler(call, stream, watch)
    samples: list[float] = []
    started = perf_counter()
    while True:
        samples.extend([_wall(call, None)] if sampler is None else sampler.batch())
        enough = half_width(samples) <= INTERVAL[device.type]
        if len(samples) >= MINIMUM_SAMPLES and (enough or perf_counter() - started > seconds):
            break
    if sampler is None:
        return Samples(samples, samples)
    return Samples(samples, sampler.walls(min(len(samples), 10)), sampler.runs_ahead)


def _warm_up(call: Callable[[], object], stream: Stream | None) -> None:
    """Call until the medians of two groups of calls agree within 2 %, or enough time has passed."""
    started = perf_counter()
    before = math.inf
    while True:
        group = [_wall(call, stream)]
        if sum(group) < 1e3 * WARM_UP_SECONDS:
            group += [_wall(call, stream) for _ in range(4)]
        now = statistics.median(group)
        spent = perf_counter() - started
        settled = spent >= WARM_UP_SECONDS and abs(now - before) <= 0.02 * now
        if settled or spent >= 5 * WARM_UP_SECONDS:
            return
        before = now


def _wall(call: Callable[[], object], stream: Stream | None) -> float:
    start = perf_counter()
    call()
    if stream is not None:
        stream.synchronize()
    return 1e3 * (perf_counter() - start)
