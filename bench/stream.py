"""The parts of CUDA that the clock uses, as a small interface that tests can replace."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch

CALIBRATION_CYCLES = 1 << 20  # about 0.6 ms


class Stream(Protocol):
    """A stream of a device: work that is enqueued runs in order, and the host does not wait."""

    def event(self) -> Any:
        """A new event, with `record` and `elapsed_time` (in ms) of a CUDA event."""

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
    """Cycles of `torch.cuda._sleep` per ms. The highest of three rates, so that a clock that was
    low at first does not make later sleeps too short."""
    found = []
    for _ in range(3):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.cuda._sleep(CALIBRATION_CYCLES)
        stop.record()
        torch.cuda.synchronize(device)
        found.append(CALIBRATION_CYCLES / start.elapsed_time(stop))
    return max(found)
