"""The energy of a call on a GPU, from the driver's counter.

The counter of the whole board advances about ten times a second. So calls are repeated, and energy
and calls are counted between the first and the last advance. The result is checked against
the power sensor, as the counter of some GPUs is wrong.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

from bench.instruments.gpu_sensors import Sensors
from bench.instruments.stream import Stream

GROUP_MS = 10.0  # device time of the calls between two readings of the counter
LEAST_ADVANCES = 5
TOLERANCE = 0.2  # relative difference of the mean power by the counter and by the sensor


def per_call_mj(
    call: Callable[[], object],
    stream: Stream,
    sensors: Sensors | None,
    call_ms: float,
    seconds: float,
) -> float | None:
    """The energy of one call in mJ, of calls that follow each other without a pause.

    Args:
        call_ms: about the time of a call.
        seconds: time in which calls are repeated; 0 measures nothing.

    Returns:
        None if there is no counter, if it advanced fewer than 5 times, or if it differs from the
        power sensor by more than a fifth.
    """
    if sensors is None or seconds <= 0 or (last := sensors.energy_mj()) is None:
        return None
    group = max(1, round(GROUP_MS / call_ms))
    advances: list[tuple[float, float, int]] = []  # seconds, mJ, and calls so far
    watts: list[float] = []
    calls = 0
    ended = _enqueue(call, group, stream)
    started = perf_counter()
    while perf_counter() - started < seconds:
        # The device goes on with the next group while the host waits for this one and reads.
        following = _enqueue(call, group, stream)
        watt = sensors.read().power_w
        ended.synchronize()
        calls, ended = calls + group, following
        now = sensors.energy_mj()
        if now is None:
            return None
        if now != last:
            advances.append((perf_counter(), now, calls))
            last = now
        if advances and watt is not None:
            watts.append(watt)
    stream.synchronize()
    if len(advances) <= LEAST_ADVANCES:
        return None
    (first_s, first_mj, first_calls), (last_s, last_mj, last_calls) = advances[0], advances[-1]
    by_counter = (last_mj - first_mj) / 1e3 / (last_s - first_s)
    by_sensor = statistics.fmean(watts) if watts else 0.0
    if abs(by_counter - by_sensor) > TOLERANCE * by_sensor:
        return None
    return (last_mj - first_mj) / (last_calls - first_calls)


def _enqueue(call: Callable[[], object], count: int, stream: Stream) -> Any:
    """Enqueue calls, and return the event of their end."""
    for _ in range(count):
        call()
    event = stream.event()
    event.record()
    return event
