"""Watches what disturbs the times of a case: other load on its cores, steal, limits, memory, clock.

All figures come from files of Linux. A file that is missing adds nothing, so on other systems no
case is disturbed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

__all__ = ["Disturbance", "cores_of_process", "threads_for"]

# Load of other processes, in cores, that a case may have; that of an idle system is below 0.03.
OTHERS = 0.1
# Share of the time for which the system may stop the process or wait for memory.
SHARE = 0.02
SWAPPED_PAGES = 64
CLOCK_RATIO = 0.9
# The system counts in ticks: busy time of a core may be wrong by a tick at each end.
TICK = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
ROOT = Path("/")


def cores_of_process() -> list[int]:
    """The cores on which this process may run; all cores where the system has no such limit."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def threads_for(device: torch.device) -> int:
    """Threads of this process that compute during a case; on a GPU only one launches kernels."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@dataclass(frozen=True)
class _Reading:
    """Sums since the start of the system, in seconds, and the clock now; None if unknown."""

    now: float
    own: float  # CPU time of this process and its children
    busy: float | None  # of our cores, by all processes
    stolen: float | None  # of our cores, by the host of a virtual machine
    stopped: float | None  # by the CPU limit of a control group
    stalled: float | None  # some process waited for memory
    swapped_pages: int | None
    heat_events: int | None
    clock_mhz: float | None


class Disturbance:
    """Watches one case after the other: `begin()` before a case, `end()` after it.

    Args:
        threads: threads of this process that compute at the same time; 1 for a case on a GPU.
        root: folder that contains `proc` and `sys`.

    Other processes disturb a case if they use more than the cores that its threads leave free, by
    more than `OTHERS` cores on average. Only the cores on which this process may run count. Load
    that shares just the bandwidth of the memory with the case is not seen.
    """

    def __init__(self, threads: int, root: Path = ROOT) -> None:
        self._threads, self._root = threads, root
        self._cores = cores_of_process()
        self._before: _Reading | None = None

    def begin(self) -> None:
        """Start to watch."""
        self._before = self._read()

    def end(self) -> str:
        """The disturbances of the times since `begin`, as short statements; empty without any."""
        if self._before is None:
            raise RuntimeError("Disturbance.end() needs a call of begin() before it")
        before, self._before = self._before, None
        return "; ".join(self._statements(before, self._read()))

    def _statements(self, was: _Reading, now: _Reading) -> Iterator[str]:
        seconds, count = max(now.now - was.now, 1e-9), len(self._cores)
        free = max(0, count - self._threads)
        error = 2 * TICK * count**0.5 / seconds  # of the cores in use
        if was.busy is not None and now.busy is not None:
            others = (now.busy - was.busy - (now.own - was.own)) / seconds
            if others > free + OTHERS + error:
                yield f"other processes used {others:.1f} of {count} cores"
        stolen = _rise(was.stolen, now.stolen) / seconds
        if stolen > OTHERS + error:
            yield f"the host of this virtual machine took {stolen:.1f} of {count} cores"
        if (share := _rise(was.stopped, now.stopped) / seconds / count) > SHARE:
            yield f"the CPU limit of the control group stopped it for {share:.0%} of the time"
        if (share := _rise(was.stalled, now.stalled) / seconds) > SHARE:
            yield f"processes waited for memory for {share:.0%} of the time"
        if (pages := _rise(was.swapped_pages, now.swapped_pages)) > SWAPPED_PAGES:
            yield f"{pages:.0f} pages were read from swap"
        if _rise(was.heat_events, now.heat_events) > 0:
            yield "the temperature lowered the clock of the cores"
        if was.clock_mhz and now.clock_mhz and now.clock_mhz < CLOCK_RATIO * was.clock_mhz:
            yield f"the clock of the cores fell from {was.clock_mhz:.0f} to {now.clock_mhz:.0f} MHz"

    def _read(self) -> _Reading:
        busy, stolen = self._times_of_cores()
        return _Reading(
            now=time.perf_counter(),
            own=_own_seconds(),
            busy=busy,
            stolen=stolen,
            stopped=_micro(self._entry("sys/fs/cgroup/cpu.stat", "throttled_usec")),
            stalled=_micro(self._stall()),
            swapped_pages=self._entry("proc/vmstat", "pswpin"),
            heat_events=self._of_cores("thermal_throttle/core_throttle_count", sum),
            clock_mhz=_mega(self._of_cores("cpufreq/scaling_cur_freq", max)),
        )

    def _times_of_cores(self) -> tuple[float | None, float | None]:
        names = {f"cpu{core}" for core in self._cores}
        lines = [line.split() for line in self._text("proc/stat").splitlines()]
        rows = [[int(word) for word in line[1:9]] for line in lines if line and line[0] in names]
        # A container may show no core, fewer cores, or none of their times.
        if len(rows) < len(names) or not any(map(sum, rows)):
            return None, None
        # user, nice, system, idle, iowait, irq, softirq, steal
        busy = sum(sum(row[:3]) + sum(row[5:7]) for row in rows)
        return busy * TICK, sum(row[7] for row in rows if len(row) > 7) * TICK

    def _stall(self) -> int | None:
        """Microseconds in which at least one process waited for memory."""
        for line in self._text("proc/pressure/memory").splitlines():
            if line.startswith("some "):
                return int(line.rpartition("total=")[2])
        return None

    def _entry(self, file: str, name: str) -> int | None:
        for line in self._text(file).splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
        return None

    def _of_cores(self, file: str, function: Callable[[list[int]], int]) -> int | None:
        texts = [self._text(f"sys/devices/system/cpu/cpu{core}/{file}") for core in self._cores]
        values = [int(text) for text in texts if text.strip().isdecimal()]
        return function(values) if values else None

    def _text(self, file: str) -> str:
        try:
            return (self._root / file).read_text()
        except OSError:
            return ""


def _own_seconds() -> float:
    """CPU seconds of this process, of its children, and of theirs."""
    ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(usage.ru_utime + usage.ru_stime for usage in ended)
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it ended since; RUSAGE_CHILDREN has its time after the next wait
            continue
        total += times.user + times.system
    return total


def _rise(was: float | None, now: float | None) -> float:
    return 0.0 if was is None or now is None else now - was


def _micro(value: int | None) -> float | None:
    return None if value is None else value / 1e6


def _mega(khz: int | None) -> float | None:
    return None if khz is None else khz / 1e3
