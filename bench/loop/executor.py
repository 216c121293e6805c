"""Where cases are measured: an executor has workers, and a worker runs one call at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as CallTimeout
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "CallTimeout",
    "Executor",
    "ExecutorError",
    "Worker",
    "WorkerCall",
    "WorkerDied",
    "WorkerKilled",
    "WorkerLost",
    "WorkerOutOfMemory",
]


class ExecutorError(Exception):
    """There is no worker that can be used. The message is one sentence."""


class WorkerDied(Exception):
    """The process of a worker ended during a call. The message is one sentence."""


class WorkerKilled(WorkerDied):
    """The process of a worker was ended by SIGKILL, and not because memory ran out. This says
    little about its case."""


class WorkerOutOfMemory(WorkerDied):
    """The system ended the process of a worker because memory ran out."""


class WorkerLost(Exception):
    """The machine of a worker cannot be reached. This is no result of its case, which may be
    measured on another machine. The message is one sentence."""


@dataclass(frozen=True)
class WorkerCall:
    """A function of a module with its arguments, and the seconds after which it is stopped."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    timeout: float = 300.0


class Worker(Protocol):
    """A process that measures cases, on this machine or on another one.

    The process is started by the first call, and by the first call after `replace`.
    """

    @property
    def name(self) -> str:
        """A name for messages, such as `worker 2`; it contains no name of a host."""
        ...

    def submit(self, call: WorkerCall) -> Future[Any]:
        """Start a call; no other call may be running.

        The future raises CallTimeout, WorkerDied, WorkerLost, or the exception of the function.
        """
        ...

    def replace(self) -> None:
        """End the process and all processes that it started."""
        ...


class Executor(Protocol):
    """The workers of a run."""

    several_machines: bool  # whether workers may be on other machines than the run began on

    def workers(self) -> Sequence[Worker]:
        """The workers that can be used now. Machines may join and leave during a run.

        Raises:
            ExecutorError: there are none, and there will be none.
        """
        ...

    def close(self) -> None:
        """End all workers."""
        ...
