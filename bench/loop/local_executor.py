"""Workers that are processes of this machine.

A worker is two processes: `supervisor`, and below it the process that runs the calls (`serving`).
"""

from __future__ import annotations

import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied, WorkerKilled, WorkerOutOfMemory
from bench.loop.frames import FrameBuffer, write_frame
from bench.loop.interrupts import delayed_interrupts
from bench.loop.memory_limit import (
    ended_for_memory,
    reason_of_failed_start,
    remove_groups,
    system_kills,
)
from bench.loop.serving import BEGAN
from bench.loop.supervisor import ENDING
from bench.loop.worker_settings import worker_settings

__all__ = ["LocalExecutor", "LocalWorker", "death"]

PIECE = 1 << 16
CLOSING = 5.0  # seconds between the end of a worker's pipe and the end of its process


class LocalExecutor:
    """Worker processes of this machine.

    Args:
        start: the first call of each process. Its timeout is that of the start of the process.
        workers: number of workers.
        log: file to which the first and the last output of each process are appended.
        group: folder of the control group that limits the memory of the workers.
    """

    several_machines = False

    def __init__(
        self, start: WorkerCall, workers: int = 1, log: Path | None = None, group: str | None = None
    ) -> None:
        names = [f"worker {number + 1}" for number in range(workers)]
        self._workers = tuple(LocalWorker(name, start, log, group) for name in names)

    def workers(self) -> Sequence[LocalWorker]:
        """All workers."""
        return self._workers

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.replace()


class LocalWorker:
    """A process of this machine that is reused until a call fails."""

    def __init__(
        self, name: str, start: WorkerCall, log: Path | None = None, group: str | None = None
    ) -> None:
        self.name = name
        self._start, self._log, self._group = start, log, group
        self._process: _Process | None = None

    def submit(self, call: WorkerCall) -> Future[Any]:
        """Start a call; no other call may be running.

        The future raises CallTimeout, WorkerDied, the exception of the function, or CallError
        instead of an exception that cannot be sent.
        """
        if self._process is not None and not self._process.running:
            self.replace()  # it died since the last call
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with delayed_interrupts():
            if self._process is None:
                try:
                    self._process = _Process(self._start, self._log, self._group)
                except OSError as error:
                    reason = f"the worker process could not be started: {error.strerror}"
                    future.set_exception(WorkerDied(reason))
                    return future
            self._process.submit(call, future)
        return future

    def replace(self) -> None:
        """End the process and all processes that it started; the next call starts a new one."""
        if self._process is not None:
            with delayed_interrupts():
                self._process.end()
            self._process = None


class _Process:
    """A process from its start to its end."""

    def __init__(self, start: WorkerCall, log: Path | None, group: str | None) -> None:
        self._start, self._group = start, group
        self._kills = system_kills()
        self._began = False
        self._thread: threading.Thread | None = None
        first = pickle.dumps((start.function, start.arguments))
        theirs: list[int] = []
        ours: list[int] = []
        try:
            # Descriptors are not inherited by other child processes, unless they are passed.
            for reads in (True, False, True, False):
                reader, writer = os.pipe()
                theirs.append(reader if reads else writer)
                ours.append(writer if reads else reader)
            control, report, calls, results = theirs
            self._control: int | None
            self._control, self._report, self._calls, self._results = ours
            arguments = (os.getpid(), control, report, str(log.resolve()) if log else "")
            self._stopping = threading.Lock()
            self._supervisor = subprocess.Popen(
                _python(
                    f"from bench.loop.supervisor import supervise; supervise(*{arguments}, "
                    f"[{calls}, {results}], {_serving(calls, results)})",
                    "-I",
                    "-S",
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=theirs,
                env={**os.environ, **worker_settings(os.environ)},
                start_new_session=True,  # Ctrl-C of the terminal is for the run alone
            )
        except BaseException:
            _close(*ours)
            raise
        finally:
            _close(*theirs)
        with suppress(BrokenPipeError):
            write_frame(self._calls, first)

    @property
    def running(self) -> bool:
        return self._supervisor.poll() is None

    def submit(self, call: WorkerCall, future: Future[Any]) -> None:
        """Start a call and a thread that ends the future."""
        content = pickle.dumps((call.function, call.arguments))
        self._thread = threading.Thread(
            target=self._finish, args=(content, call.timeout, future), daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """End all processes; the future of a running call raises WorkerDied."""
        self._stop()
        if self._thread is not None:
            self._thread.join()
        if self._group:
            remove_groups(self._group)
        _close(self._report, self._calls, self._results)

    def _stop(self) -> None:
        """Let the supervisor end the worker, and wait until it has."""
        with self._stopping:
            if self._control is not None:
                _close(self._control)
            self._control = None
            try:
                self._supervisor.wait(2 * ENDING)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()  # the worker ends with it
                self._supervisor.wait()

    def _finish(self, content: bytes, timeout: float, future: Future[Any]) -> None:
        """Send a call and wait for its end, in a thread of its own."""
        try:
            with suppress(BrokenPipeError):
                write_frame(self._calls, content)
            answer = self._answer(timeout)
            if answer is None:
                raise self._death()
            try:
                returned, value = pickle.loads(answer)
            except BaseException as error:  # of the code of an implementation
                raise WorkerDied("the answer of the worker process cannot be read") from error
        except BaseException as error:
            future.set_exception(error)
            return
        if returned:
            future.set_result(value)
        else:
            future.set_exception(value)

    def _answer(self, timeout: float) -> bytes | None:
        """The answer to the running call; None if the worker has ended without one.

        The time of a call counts from the moment at which the worker takes it up, so the start of
        the process is not part of it.
        """
        os.set_blocking(self._results, False)
        buffer = FrameBuffer()
        begun = closed = False
        deadline = time.monotonic() + self._start.timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._results, selectors.EVENT_READ)
            selector.register(self._report, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(min(left, 3600.0))}
                ended = self._report in ready
                while piece := _read(self._results):
                    for frame in buffer.frames(piece):
                        if frame != BEGAN:
                            return frame
                        self._began = begun = True
                        deadline = time.monotonic() + timeout
                if ended:
                    return None
                if piece == b"" and not closed:  # the worker ends, or it can answer no more
                    closed = True
                    selector.unregister(self._results)
                    deadline = min(deadline, time.monotonic() + CLOSING)
        self._stop()
        if closed:
            raise WorkerDied("the worker process closed its connection to the run")
        if begun:
            raise CallTimeout(f"took longer than {timeout:g} s")
        raise WorkerDied(f"the worker process did not begin within {self._start.timeout:g} s")

    def _death(self) -> WorkerDied:
        """The exception on how the worker ended."""
        self._stop()
        content = b""
        while piece := os.read(self._report, PIECE):
            content += piece
        if not content:
            return WorkerKilled("the process that supervises the worker was ended")
        report = json.loads(content)
        status = report["status"]
        if self._group and ended_for_memory(self._group, report["pid"]):
            return WorkerOutOfMemory("the process needed more memory than the limit of its group")
        if status == -signal.SIGKILL and (system_kills() or 0) > (self._kills or 0):
            return WorkerOutOfMemory("the system ended the process because memory ran out")
        if self._began:
            return (WorkerKilled if status == -signal.SIGKILL else WorkerDied)(death(status))
        if reason := reason_of_failed_start():
            return WorkerDied(f"the worker process ended before it began: {reason}")
        lines = [line.strip() for line in report["output"].splitlines() if line.strip()]
        why = f": {lines[-1]}" if lines else f"; {death(status)}"
        return WorkerDied(f"the worker process ended before it began{why}")


def death(status: int | None) -> str:
    """The sentence on how a process ended."""
    if status is None or status >= 0:
        return f"the worker process ended with exit status {status}"
    names = {int(known): known.name for known in signal.Signals}
    name = names.get(-status, f"signal {-status}")  # real-time signals have no names
    return f"the worker process was ended by {name}"


def _python(code: str, *options: str) -> list[str]:
    """A command line that runs `code` with the import path of this process."""
    return [sys.executable, *options, "-c", f"import sys; sys.path[:] = {sys.path}; {code}"]


def _serving(calls: int, results: int) -> list[str]:
    warnings = [f"-W{option}" for option in sys.warnoptions]
    serve = (
        f"import os; from bench.loop.serving import serve; serve(os.getppid(), {calls}, {results})"
    )
    return _python(serve, *warnings)


def _read(pipe: int) -> bytes | None:
    """The bytes in a pipe: none of them if it is closed, and None if there are none now."""
    try:
        return os.read(pipe, PIECE)
    except BlockingIOError:
        return None


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
