"""How long parts of a pass take: wall time on a CPU, the time between events on a GPU."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Sums the times of spans by name. A GPU is waited for only when a sum is asked for."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """What happens within belongs to `name`; spans of other names may lie within."""
        start = self._now()
        yield
        self._spans[name].append((start, self._now()))

    def ms(self, name: str) -> float:
        """The sum of the spans of a name, 0 without any."""
        spans = self._spans[name]
        if not self._on_gpu:
            return 1e3 * sum(stop - start for start, stop in spans)
        torch.cuda.synchronize()
        return sum(start.elapsed_time(stop) for start, stop in spans)

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
