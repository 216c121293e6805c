"""The watch on what disturbs times: a real busy process, and files of a system with each reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from bench.instruments import disturbance
from bench.instruments.disturbance import Disturbance, threads_for

needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc/stat")
CORES = (2, 5)
SECONDS = 10.0

Files = dict[str, str]


def stat(busy: float = 0.0, stolen: float = 0.0) -> str:
    """/proc/stat after this CPU time on the first of our cores, and much load on another core."""
    used, taken = (round(value / disturbance.TICK) for value in (busy, stolen))
    return f"""cpu  {used + 9999} 0 0 0 0 0 0 0 0 0
cpu0 {1000 * used + 5} 0 0 0 0 0 0 0 0 0
cpu{CORES[0]} {used + 7} 0 0 50 0 0 0 {taken} 0 0
cpu{CORES[1]} 7 0 0 9 0 0 0 0 0 0
intr 5 5
"""


QUIET: Files = {
    "proc/stat": stat(),
    "proc/vmstat": "pgpgin 5\npswpin 100\n",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=100\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5\nthrottled_usec 100\n",
    "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "3500000\n",
    "sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count": "3\n",
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, no CPU time of our own, and 10 s between two readings."""
    times = iter(SECONDS * step for step in range(100))
    monkeypatch.setattr(disturbance, "cores_of_process", lambda: list(CORES))
    monkeypatch.setattr(disturbance, "_own_seconds", lambda: 0.0)
    monkeypatch.setattr(disturbance.time, "perf_counter", lambda: next(times))


@pytest.fixture
def seen(tmp_path: Path, clock: None) -> Callable[..., str]:
    """A function of the files that change during a case; it returns what was found."""

    def write(files: Files) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    def watch(changed: Files, threads: int = 2) -> str:
        write(QUIET)
        watched = Disturbance(threads, tmp_path)
        watched.begin()
        write(changed)
        return watched.end()

    return watch


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"proc/stat": stat(busy=9)}, "other processes used 0.9 of 2 cores"),
        ({"proc/stat": stat(stolen=6)}, "the host of this virtual machine took 0.6 of 2 cores"),
        (
            {"sys/fs/cgroup/cpu.stat": "usage_usec 9\nthrottled_usec 6000100\n"},
            "the CPU limit of the control group stopped it for 30% of the time",
        ),
        (
            {"proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=500100\n"},
            "processes waited for memory for 5% of the time",
        ),
        ({"proc/vmstat": "pswpin 1100\n"}, "1000 pages were read from swap"),
        (
            {"sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count": "4\n"},
            "the temperature lowered the clock of the cores",
        ),
        (
            {"sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "2500000\n"},
            "the clock of the cores fell from 3500 to 2500 MHz",
        ),
    ],
)
def test_each_reason_is_found_alone(
    seen: Callable[..., str], changed: Files, expected: str
) -> None:
    assert seen(changed) == expected


def test_several_reasons_are_named_together(seen: Callable[..., str]) -> None:
    assert seen({"proc/stat": stat(busy=9), "proc/vmstat": "pswpin 1100\n"}) == (
        "other processes used 0.9 of 2 cores; 1000 pages were read from swap"
    )


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"proc/stat": stat(busy=0.5, stolen=0.5)},
        {"proc/vmstat": "pswpin 130\n"},
        {"sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "3600000\n"},
    ],
)
def test_small_changes_do_not_disturb(seen: Callable[..., str], changed: Files) -> None:
    assert seen(changed) == ""


def test_load_on_cores_that_the_threads_leave_free_does_not_disturb(
    seen: Callable[..., str],
) -> None:
    assert seen({"proc/stat": stat(busy=9)}, threads=1) == ""
    assert seen({"proc/stat": stat(busy=13)}, threads=1) == "other processes used 1.3 of 2 cores"


@pytest.mark.parametrize(
    "files", [{}, {"proc/stat": "cpu  0 0 0 0\ncpu2 0 0 0 0\ncpu5 0 0 0 0\n"}], ids=["none", "zero"]
)
def test_nothing_is_found_where_the_system_reports_nothing(
    tmp_path: Path, clock: None, files: Files
) -> None:
    (tmp_path / "proc").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    watched = Disturbance(2, tmp_path)
    watched.begin()
    assert watched.end() == ""


def test_an_end_without_a_begin_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="begin"):
        Disturbance(1).end()


def test_a_case_on_a_gpu_needs_one_core() -> None:
    assert threads_for(torch.device("cpu")) == torch.get_num_threads()
    assert threads_for(torch.device("cuda")) == 1


SPIN = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
# Not a child of the process that starts it: the time of children is our own.
BESIDE = f"""
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
print(os.getpid(), flush=True)
os.close(1)
{SPIN}
"""


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.fixture
def one_core() -> Iterator[None]:
    """This process and those that it starts may use one core only."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def watched_spin(seconds: float) -> str:
    watched = Disturbance(1)
    watched.begin()
    spin(seconds)
    return watched.end()


@needs_proc
@pytest.mark.serial
def test_a_real_busy_process_on_our_core_is_found(one_core: None) -> None:
    command = [sys.executable, "-c", BESIDE]
    started = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    try:
        assert "of 1 cores" in watched_spin(0.5)
    finally:
        os.kill(int(started.stdout), signal.SIGKILL)


@needs_proc
@pytest.mark.serial
def test_our_own_load_and_that_of_children_is_no_disturbance(one_core: None) -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        before = psutil.Process(child.pid).cpu_times().user + time.process_time()
        found = watched_spin(1.0)
        own = psutil.Process(child.pid).cpu_times().user + time.process_time() - before
    finally:
        child.kill()
        child.wait()
    others = float(found.split()[3]) if found else 0.0
    # The core has one second for all; other processes of the system may have a part of it.
    assert own > 0.1
    assert others < 1.1 - own
