"""An executor without processes, for tests of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from bench.loop.executor import WorkerCall


class InProcess:
    """A worker that runs calls in this process, and an executor with this worker alone."""

    several_machines = False
    name = "worker"

    def __init__(self) -> None:
        self.replaced = 0
        self.timeouts: dict[str, float] = {}  # of the last call of each function

    def submit(self, call: WorkerCall) -> Future[Any]:
        future: Future[Any] = Future()
        self.timeouts[call.function.__name__] = call.timeout
        try:
            future.set_result(call.function(*call.arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def replace(self) -> None:
        self.replaced += 1

    def workers(self) -> Sequence[InProcess]:
        return [self]

    def close(self) -> None:
        pass
