"""An executor without processes, for tests of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from bench.loop.executor import WorkerCall
from bench.selfcheck import same_code

_SELFCHECK = same_code.short


class InProcess:
    """A worker that runs calls in this process, and an executor with this worker alone.

    It does not time the same code against itself: the selfchecks of a run would take seconds.
    """

    several_machines = False
    name = "worker"

    def __init__(self) -> None:
        self.replaced = 0
        self.timeouts: dict[str, float] = {}  # of the last call of each function

    def submit(self, call: WorkerCall) -> Future[Any]:
        future: Future[Any] = Future()
        self.timeouts[call.function.__name__] = call.timeout
        try:
            function = _quiet if call.function is _SELFCHECK else call.function
            future.set_result(function(*call.arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def replace(self) -> None:
        self.replaced += 1

    def workers(self) -> Sequence[InProcess]:
        return [self]

    def close(self) -> None:
        pass


def _quiet(device: str, seconds: float) -> dict[str, Any]:
    """The result of a selfcheck, without measuring."""
    return same_code.Selfcheck(device, 0.05, 20, seconds / 80, disturbed="").values
