"""A small process between the run and a worker process.

It ends the worker and all processes that the worker started when the run asks for it, when the run
has died, and when the worker has ended. It writes the output of the worker to a log of bounded
size. It imports neither torch nor code of implementations, so a fault of that code does not end it.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import psutil

from bench.loop.process_control import adopt_orphans

__all__ = ["BoundedLog", "supervise"]

KEPT = 64 << 10  # bytes of output that are kept from the start, and from the end, of each process
TICK = 1.0  # seconds between two looks for dead processes and for the process of the run
ENDING = 10.0  # seconds in which killed processes must have ended
PIECE = 1 << 16


class BoundedLog:
    """The first and the last bytes of an output. The file is only appended to."""

    def __init__(self, path: Path | None, kept: int = KEPT) -> None:
        self._path, self._kept = path, kept
        self._written = self._skipped = 0
        self._last: deque[bytes] = deque()
        self._size = 0  # of `_last`

    def write(self, piece: bytes) -> None:
        """Add a piece of the output."""
        first = piece[: max(0, self._kept - self._written)]
        if first:
            self._append(first)
            self._written += len(first)
        self._last.append(piece)
        self._size += len(piece)
        while self._size - len(self._last[0]) >= self._kept:
            self._size -= len(self._last.popleft())
        self._skipped += len(piece) - len(first)

    def end(self) -> None:
        """Write the last bytes, and how many were left out before them."""
        last = self.last()[-self._kept :]
        last = last[max(0, len(last) - self._skipped) :]
        if left_out := self._skipped - len(last):
            self._append(b"\n[%d bytes of output are left out]\n" % left_out)
        if last:
            self._append(last)

    def last(self) -> bytes:
        """At least the last `kept` bytes, if there are that many."""
        return b"".join(self._last)

    def _append(self, content: bytes) -> None:
        if self._path is not None:
            with suppress(OSError), self._path.open("ab") as file:  # a full disk ends no worker
                file.write(content)


def supervise(
    run: int, control: int, report: int, log: str, passed: list[int], command: list[str]
) -> None:
    """Start a worker and stay until it has ended.

    Args:
        run: process id of the run, the parent of this process.
        control: a pipe that is closed when the worker must end.
        report: a pipe to which the exit status and the last output of the worker are written.
        log: path of the log; empty for none.
        passed: descriptors for the worker.
        command: command line of the worker, to which the process id of its parent is added.
    """
    adopt_orphans()
    for descriptor in (control, report):
        os.set_inheritable(descriptor, False)
    output, into = os.pipe()
    worker = subprocess.Popen(
        [*command, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=into,
        stderr=into,
        pass_fds=passed,
        start_new_session=True,
    )
    for descriptor in (into, *passed):
        os.close(descriptor)
    os.set_blocking(output, False)
    kept = BoundedLog(Path(log) if log else None)
    status = _wait(run, control, output, worker.pid, kept)
    status = _end_all(worker.pid, status)
    _copy(output, kept)
    kept.end()
    text = kept.last()[-KEPT:].decode(errors="replace")
    with suppress(OSError):  # the run has died
        os.write(
            report,
            json.dumps({"status": status, "pid": worker.pid, "output": text[-4096:]}).encode(),
        )


def _wait(run: int, control: int, output: int, worker: int, kept: BoundedLog) -> int | None:
    """Wait until the worker has ended, and return its status, or until it must be ended."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(output, selectors.EVENT_READ)
    tick = TICK
    if sys.platform == "linux":
        selector.register(os.pidfd_open(worker), selectors.EVENT_READ)
    else:
        tick = 0.05
    looked = 0.0
    while True:
        ready = {key.fd for key, _ in selector.select(tick)}
        if output in ready and not _copy(output, kept, once=True):
            selector.unregister(output)  # closed by all processes; the worker still runs
        others = ready - {output}
        if control in others:
            return None
        if not others and time.monotonic() - looked < tick:
            continue
        looked = time.monotonic()
        status = _reap(worker)
        if status is not None or os.getppid() != run:
            return status


def _copy(output: int, kept: BoundedLog, *, once: bool = False) -> bool:
    """Copy the output that is there. Returns False when the pipe is closed."""
    with suppress(BlockingIOError):
        while piece := os.read(output, PIECE):
            kept.write(piece)
            if once:
                return True
        return False
    return True


def _reap(worker: int) -> int | None:
    """Collect ended children. Returns the status of the worker if it is among them: its exit
    status, or the negative number of the signal that ended it."""
    found = None
    with suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            if process == worker:
                found = os.waitstatus_to_exitcode(status)
    return found


def _end_all(worker: int, status: int | None) -> int | None:
    """Kill all descendants, also those that start while this runs. Returns the worker's status."""
    deadline = time.monotonic() + ENDING
    while time.monotonic() < deadline:
        running = psutil.Process().children(recursive=True)
        for process in running:
            with suppress(psutil.Error):
                process.kill()
        ended = _reap(worker)
        status = ended if status is None else status
        if not running:
            break
        time.sleep(0.002)
    return status
