"""The parts of CUDA that the clock uses, as a small interface that tests can replace."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch

CALIBRATION_CYCLES = 1 << 23  # about 5 ms
# A GPU that was idle has a low clock, and needs some time of work for its usual one.
LEAST_CALIBRATION_MS, MOST_CALIBRATION_MS = 50.0, 1000.0
SAME_RATE = 0.02  # relative difference of two rates that agree


class Stream(Protocol):
    """A stream of a device: work that is enqueued runs in order, and the host does not wait."""

    def event(self) -> Any:
        """A new event, with `record`, `query`, `synchronize` and `elapsed_time` (in ms) of a CUDA
        event."""

    def busy(self, ms: float) -> None:
        """Enqueue work that takes about this time and reads no memory."""

    def flush(self) -> None:
        """Enqueue a write that evicts the L2 cache."""

    def synchronize(self) -> None:
        """Wait until all enqueued work has ended."""


class CudaStream:
    """The current stream of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        size = max(2 * torch.cuda.get_device_properties(device).L2_cache_size, 1 << 20)
        self._cache = torch.empty(size, dtype=torch.int8, device=device)

    def event(self) -> Any:
        return torch.cuda.Event(enable_timing=True)

    def busy(self, ms: float) -> None:
        torch.cuda._sleep(int(ms * _cycles_per_ms(self._device)))

    def flush(self) -> None:
        self._cache.zero_()

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)


@cache
def _cycles_per_ms(device: torch.device) -> float:
    """Cycles of `torch.cuda._sleep` per ms."""

    def sleep(cycles: int) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.cuda._sleep(cycles)
        stop.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(stop)

    return settled_rate(sleep)


def settled_rate(sleep: Callable[[int], float]) -> float:
    """Cycles per ms of a function that takes a number of cycles and returns its time in ms.

    It is called for a while, in which the clock of the device rises, and then until two rates in a
    row agree. Of these two, the higher one makes later sleeps too long rather than too short.
    """
    spent = before = 0.0
    while True:
        ms = sleep(CALIBRATION_CYCLES)
        rate = CALIBRATION_CYCLES / ms
        if abs(rate - before) <= SAME_RATE * rate or spent >= MOST_CALIBRATION_MS:
            return max(rate, before)
        before = rate if spent >= LEAST_CALIBRATION_MS else 0.0
        spent += ms
