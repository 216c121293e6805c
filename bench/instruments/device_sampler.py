"""Samples the device time of a call without host time between the two events.

A kernel can start only after the host has launched it. If the device is idle at the first event,
the span between the events contains the time in which the host prepares the launches. So each
sample begins with filler work that lasts longer than the host needs for the whole call: when the
device reaches the first event, all kernels of the call are in its queue.

The host cannot run ahead of a call that waits for the device, and of one with more launches than
the queue holds (about a thousand). Such a call is detected and sampled without filler work; its
span contains host time.

After each call, the sampler asks whether the device has passed the first event already. If it has,
the filler was too short: the batch is dropped, and the filler is made longer.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

from bench.instruments.stream import Stream

BATCH = 5  # samples between two synchronisations
MARGIN = 1.5  # filler time, as a multiple of the host time of a call
LEAST_FILLER_MS = 0.05
MOST_DOUBLINGS = 3  # of the filler; after them, the host cannot run ahead
LEAST_PROBE_MS = 1.0  # filler time while it is tested whether the host can run ahead
# Calls above this time are sampled one by one, without filler work, and each gives a wall time too:
# host time before the first launch is below 1 % of them, and few calls are made.
SLOW_MS = 40.0


class _Single(NamedTuple):
    """Times of one call in ms: between its events; until it returned; until the device was done."""

    device: float
    host: float
    wall: float


class DeviceSampler:
    """Samples of one call on one stream. The call must be warm.

    `runs_ahead` is whether the host can enqueue the whole call before the device begins it.
    """

    def __init__(
        self, call: Callable[[], object], stream: Stream, watch: Callable[[], None] | None = None
    ) -> None:
        """
        Args:
            watch: called once for each batch, while the device works.
        """
        self._call, self._stream, self._watch = call, stream, watch
        self._filler, self.is_slow, self._given = 0.0, False, False
        self._doublings = 0
        first = self._single(cold=True)
        self.is_slow = first.wall > SLOW_MS
        self._singles = [first] if self.is_slow else []
        if self.is_slow:
            self.runs_ahead = first.host < first.wall / 2
            return
        host = min(first.host, *(self._single(cold=True).host for _ in range(2)))
        self.runs_ahead = self._can_run_ahead(host)
        if self.runs_ahead:
            self._filler = MARGIN * host + LEAST_FILLER_MS

    def batch(self) -> list[float]:
        """Times between the two events of each of a few calls, in ms, each with a cold L2 cache."""
        if self.is_slow:
            if not self._given:
                self._given = True  # the first call was a sample
            else:
                self._singles.append(self._single(cold=True))
            return [self._singles[-1].device]
        while True:
            times, late = self._batch()
            if late <= BATCH / 2:
                return times
            if self._doublings == MOST_DOUBLINGS:
                self.runs_ahead, self._filler = False, 0.0
            else:
                self._doublings, self._filler = self._doublings + 1, 2 * self._filler

    def _batch(self) -> tuple[list[float], int]:
        """Times of a batch, and the number of calls that the device began before the host had
        enqueued them; 0 without filler work."""
        events, late = [], 0
        for _ in range(BATCH):
            start, stop = self._stream.event(), self._stream.event()
            if self._filler:
                self._stream.busy(self._filler)
            self._stream.flush()
            start.record()
            self._call()
            stop.record()
            late += bool(self._filler) and start.query()
            events.append((start, stop))
        if self._watch is not None:
            self._watch()
        self._stream.synchronize()
        return [start.elapsed_time(stop) for start, stop in events], late

    def walls(self, count: int) -> list[float]:
        """Times of a call and the synchronisation after it, in ms, with a warm cache."""
        singles = self._singles or [self._single(cold=False) for _ in range(count)]
        return [single.wall for single in singles]

    def _single(self, *, cold: bool) -> _Single:
        """Time a call that begins on an idle device."""
        start, stop = self._stream.event(), self._stream.event()
        if cold:
            self._stream.flush()
        self._stream.synchronize()
        begun = perf_counter()
        start.record()
        self._call()
        stop.record()
        returned = perf_counter()
        if self._watch is not None and self.is_slow:
            self._watch()
        self._stream.synchronize()
        ended = perf_counter()
        return _Single(start.elapsed_time(stop), 1e3 * (returned - begun), 1e3 * (ended - begun))

    def _can_run_ahead(self, host: float) -> bool:
        """Whether a call returns while the device is still busy with earlier work."""
        filler = max(2 * host, LEAST_PROBE_MS)
        for _ in range(2):  # the host may be interrupted once
            self._stream.synchronize()
            self._stream.busy(filler)
            begun = perf_counter()
            self._call()
            if 1e3 * (perf_counter() - begun) < 0.75 * filler:
                return True
        return False
