"""Threads and child processes that a case leaves behind."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Alive"]

PAUSE = 0.01  # seconds over which threads are watched
BUSY = 0.25  # processor time of threads that still compute, as a share of the pause
# Threads and processes that torch, triton and Python keep for the next kernel that is compiled. A
# thread of them is idle between two cases; if it computes, it counts.
OF_LIBRARIES = re.compile(
    r"^(?:torch|triton|concurrent\.futures|multiprocessing|tqdm|asyncio)(?:\.|$)"
)
COMPILERS = re.compile(r"torch/_inductor/compile_worker|multiprocessing[./]resource_tracker")
TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Alive:
    """The threads and child processes of this process at one moment."""

    threads: frozenset[threading.Thread]
    tasks: frozenset[int]  # numbers of all threads, also of those that Python does not know
    children: frozenset[int]

    @classmethod
    def now(cls) -> Alive:
        """Those that live now."""
        tasks = frozenset(map(int, os.listdir(TASKS))) if TASKS.exists() else frozenset()
        return cls(frozenset(threading.enumerate()), tasks, _children())

    def since(self, before: Alive) -> list[str]:
        """A text for each thread or process that lives now and did not live before."""
        threads = sorted(self.threads - before.threads, key=lambda one: one.name)
        found = [
            f"the thread {thread.name!r} is left"
            for thread in threads
            if thread.is_alive() and not OF_LIBRARIES.match(_origin(thread))
        ]
        if not found and self.tasks - before.tasks and _computes():
            found.append("threads that still compute are left")
        names = sorted(filter(None, map(_foreign, self.children - before.children)))
        return found + [f"the child process {name!r} is left" for name in names]


def _origin(thread: threading.Thread) -> str:
    """The module of the code of a thread."""
    target = getattr(thread, "_target", None)
    return str(getattr(target, "__module__", None) or type(thread).__module__)


def _computes() -> bool:
    """Whether other threads compute while this one pauses. OpenMP's threads wait actively for some
    milliseconds after their work, or for ever if the user wants it."""
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        return False
    time.sleep(PAUSE)
    started, used = time.monotonic(), time.process_time()
    time.sleep(PAUSE)
    return time.process_time() - used > BUSY * (time.monotonic() - started)


def _children() -> frozenset[int]:
    """Process ids of the children. A worker adopts the children of processes that end."""
    try:
        texts = [(task / "children").read_text() for task in TASKS.iterdir()]
    except OSError:  # a kernel without these files
        return frozenset(child.pid for child in psutil.Process().children())
    return frozenset(int(word) for text in texts for word in text.split())


def _foreign(pid: int) -> str:
    """The name of a process; empty if it has ended or compiles for torch."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or COMPILERS.search(
            " ".join(process.cmdline())
        ):
            return ""
        return process.name()
    except psutil.Error:
        return ""
