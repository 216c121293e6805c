"""Times parts of a forward pass: wall time on a CPU, time between CUDA events on a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch


class Stopwatch:
    """Sums the times of spans by name. On a GPU, only `ms` waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the time of the `with` block to `name`. Spans of other names may be nested in it."""
        start = self._now()
        yield
        self._spans[name].append((start, self._now()))

    def ms(self, name: str) -> float:
        """The total time of all spans of this name in ms; 0 if there are none."""
        spans = self._spans[name]
        if not self._on_gpu:
            return 1e3 * sum(stop - start for start, stop in spans)
        torch.cuda.synchronize()
        return sum(start.elapsed_time(stop) for start, stop in spans)

    def _now(self) -> Any:
        if not self._on_gpu:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
