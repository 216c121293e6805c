"""A simulated GPU stream: a host clock and a device clock, without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.instruments import clock, device_sampler

DEVICE_FLUSH_MS, HOST_FLUSH_MS, HOST_EVENT_MS = 0.04, 0.02, 0.005


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu, self.at = gpu, -1.0

    def record(self) -> None:
        self._gpu.host += HOST_EVENT_MS
        self.at = max(self._gpu.host, self._gpu.free)

    def query(self) -> bool:
        """Whether the device has reached this event."""
        return self.at <= self._gpu.host

    def synchronize(self) -> None:
        self._gpu.host = max(self._gpu.host, self.at)

    def elapsed_time(self, later: FakeEvent) -> float:
        assert later.at <= self._gpu.host, "the host has not waited for this event"
        return later.at - self.at


class FakeGpu:
    """The times are in ms. Work starts when the host has enqueued it and the device is free.

    The queue holds `depth` pieces of work; the host waits for a free place.
    """

    def __init__(self, depth: int = 1024) -> None:
        self.host, self.free, self.depth = 1000.0, 0.0, depth
        self.fillers: list[float] = []
        self._ends: list[float] = []

    def event(self) -> Any:
        return FakeEvent(self)

    def work(self, ms: float, host_ms: float) -> None:
        """Enqueue work that takes `ms`, in `host_ms` of the host."""
        self.host += host_ms
        if len(self._ends) >= self.depth:
            self.host = max(self.host, self._ends[-self.depth])
        self.free = max(self.host, self.free) + ms
        self._ends.append(self.free)

    def busy(self, ms: float) -> None:
        self.fillers.append(ms)
        self.work(ms, 0.005)

    def flush(self) -> None:
        self.work(DEVICE_FLUSH_MS, HOST_FLUSH_MS)

    def synchronize(self) -> None:
        self.host = max(self.host, self.free) + 0.01

    def call(
        self, launches: int, device_ms: float, host_ms: float, *, waits: bool = False
    ) -> Callable[[], None]:
        """A call with equal launches, of these times in total."""

        def call() -> None:
            for _ in range(launches):
                self.work(device_ms / launches, host_ms / launches)
            if waits:
                self.synchronize()

        return call


def on_fake_gpu(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> FakeGpu:
    """Let the clock measure on a simulated GPU."""
    for module in (clock, device_sampler):
        monkeypatch.setattr(module, "perf_counter", lambda: gpu.host / 1e3)
    monkeypatch.setattr(clock, "CudaStream", lambda device: gpu)
    return gpu
