"""Times a call: warms up until times are stable, then samples until the median is precise."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

WARM_UP_SECONDS = 0.1
MINIMUM_SAMPLES = 3
INTERVAL = {
    "cpu": 0.02,
    "cuda": 0.01,
}  # sampling stops at this relative half width of the median's 95 % interval


@dataclass(frozen=True)
class Samples:
    """Times of single calls in ms, in the order of the calls."""

    device_ms: list[float]
    wall_ms: list[float]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """First quartile, median, third quartile of the device time."""
        low, middle, high = statistics.quantiles(self.device_ms, n=4, method="inclusive")
        return low, middle, high


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
    call: Callable[[], object], device: torch.device, seconds: float, *, warm: bool = False
) -> Samples:
    """Time `call` for about `seconds` and at least `MINIMUM_SAMPLES` times.

    A warm-up comes first, unless the call is `warm` already. On a GPU, the device time is the time
    between two events on the stream, after the L2 cache was flushed. The wall time is measured
    separately, over a call and the synchronisation after it.
    """
    on_gpu = device.type == "cuda"
    if not warm:
        _warm_up(call, device)
    flush = None
    if on_gpu:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        flush = torch.empty(max(2 * cache, 1 << 20), dtype=torch.int8, device=device)
    samples: list[float] = []
    started = time.perf_counter()
    while True:
        samples.extend(_on_gpu(call, flush, 5) if flush is not None else [_wall(call, device)])
        enough = half_width(samples) <= INTERVAL[device.type]
        if len(samples) >= MINIMUM_SAMPLES and (enough or time.perf_counter() - started > seconds):
            break
    wall = [_wall(call, device) for _ in range(min(len(samples), 10))] if on_gpu else samples
    return Samples(samples, wall)


def _warm_up(call: Callable[[], object], device: torch.device) -> None:
    """Call until the medians of two groups of calls agree within 2 %, or enough time has passed."""
    started = time.perf_counter()
    before = math.inf
    while True:
        group = [_wall(call, device)]
        if sum(group) < 1e3 * WARM_UP_SECONDS:
            group += [_wall(call, device) for _ in range(4)]
        now = statistics.median(group)
        spent = time.perf_counter() - started
        settled = spent >= WARM_UP_SECONDS and abs(now - before) <= 0.02 * now
        if settled or spent >= 5 * WARM_UP_SECONDS:
            return
        before = now


def _wall(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def _on_gpu(call: Callable[[], object], flush: torch.Tensor, count: int) -> list[float]:
    """Enqueue several calls and synchronise once, so that events do not wait for the host."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for start, stop in events:
        flush.zero_()
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize(flush.device)
    return [start.elapsed_time(stop) for start, stop in events]
