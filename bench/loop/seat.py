"""A worker of a run, its machine, and the case that it measures."""

from __future__ import annotations

import time
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any, Generic

from bench.loop.executor import CallTimeout, Worker, WorkerCall, WorkerDied
from bench.loop.workload import CaseT, Memory, Steps


class Seat(Generic[CaseT]):
    """A worker, and what the loop knows about it: its machine, its case, and a generator.

    The generator is that of a workload. It yields calls, which run on the worker one after the
    other, and receives their results.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.memory = Memory()
        self.machine: dict[str, Any] | None = None  # its environment, if it is described
        self.repeats = False  # whether it measures disturbed cases again
        self.measured = False  # whether it has measured a case
        self.refused = ""  # why the machine cannot measure the cases of this run
        self.case: CaseT | None = None
        self.group: Hashable = None  # of the last case
        self.future: Future[Any] | None = None
        self.timeout = 0.0  # of the last call, in seconds
        self._began = 0.0
        self._used = False  # whether the process has been given a call
        self._steps: Steps[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether a call is running."""
        return self.future is not None

    @property
    def seconds(self) -> float:
        """The time since `begin`."""
        return time.monotonic() - self._began

    def begin(self, steps: Steps[Any], case: CaseT | None = None, group: Hashable = None) -> None:
        """Start the first call of a generator."""
        self.case, self._steps, self._began = case, steps, time.monotonic()
        if case is not None:
            self.group, self.measured = group, True
        self._submit(next(steps))

    def go_on(self) -> Any:
        """Start the next call of the generator with the result of the last one.

        Returns:
            None, or the result of the generator after its last call.

        Raises:
            the exception of the call, if the generator does not handle it.
        """
        assert self.future is not None
        assert self._steps is not None
        done, self.future = self.future, None
        try:
            error = done.exception()
            if error is None:
                call = self._steps.send(done.result())
            else:
                if not isinstance(error, Exception):  # such as KeyboardInterrupt in the worker
                    error = WorkerDied(f"the worker raised {type(error).__name__}")
                if isinstance(error, CallTimeout | WorkerDied):
                    self.replace_process()
                call = self._steps.throw(error)
        except StopIteration as end:
            return end.value
        self._submit(call)
        return None

    def _submit(self, call: WorkerCall) -> None:
        self.timeout = call.timeout
        self._used = True
        self.future = self.worker.submit(call)

    def replace_process(self) -> None:
        """End the process of the worker, unless it is a new one; what it has kept is gone."""
        if self._used:
            self._used = False
            self.memory.process.clear()
            self.worker.replace()
