"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pebble import ProcessExpired, ProcessPool

from bench.loop.executor import Call, WorkerDied
from bench.loop.interrupts import delayed_interrupts

__all__ = ["LocalExecutor", "LocalWorker"]


class LocalWorker:
    """A process of this machine that is reused until a call fails."""

    def __init__(self, name: str, start: Call) -> None:
        self.name = name
        self._start = start
        self._pool: ProcessPool | None = None

    def submit(self, call: Call) -> Future[Any]:
        """Start a call. The future raises CallTimeout, WorkerDied or the function's exception."""
        if self._pool is not None and not self._pool.active:
            self.replace()  # it died since the last call
        with delayed_interrupts():
            if self._pool is None:
                self._pool = ProcessPool(
                    max_workers=1,
                    initializer=self._start.function,
                    initargs=self._start.arguments,
                    context=multiprocessing.get_context("spawn"),
                )
            inner = self._pool.schedule(
                call.function, args=list(call.arguments), timeout=call.timeout
            )
        outer: Future[Any] = Future()
        outer.set_running_or_notify_cancel()

        def finish(done: Future[Any]) -> None:
            error = done.exception()
            if isinstance(error, ProcessExpired):
                outer.set_exception(WorkerDied(death(error.exitcode)))
            elif isinstance(error, BrokenProcessPool):
                outer.set_exception(WorkerDied("the worker process ended before it began"))
            elif error is not None:
                outer.set_exception(error)
            else:
                outer.set_result(done.result())

        inner.add_done_callback(finish)
        return outer

    def replace(self) -> None:
        """End the process; the next call starts a new one."""
        if self._pool is not None:
            with delayed_interrupts():
                self._pool.stop()
                self._pool.join()
            self._pool = None


class LocalExecutor:
    """Worker processes of this machine.

    Args:
        start: the first call of each process.
        workers: number of processes.
    """

    several_machines = False

    def __init__(self, start: Call, workers: int = 1) -> None:
        self._workers = tuple(
            LocalWorker(f"worker {number + 1}", start) for number in range(workers)
        )

    def workers(self) -> Sequence[LocalWorker]:
        """All workers."""
        return self._workers

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.replace()


def death(exitcode: int | None) -> str:
    """The sentence on how a process ended."""
    if exitcode is None or exitcode >= 0:
        return f"the worker process ended with exit status {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"the worker process was ended by {name}{hint}"
