"""A worker that is a process of a machine of a Ray cluster."""

from __future__ import annotations

import pickle
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied, WorkerLost
from bench.loop.interrupts import delayed_interrupts
from bench.loop.ray_actor import NodePlace, packed
from bench.loop.ray_cluster import Cluster, Machine, accepts, one_line

__all__ = ["RayWorker", "Shared", "death"]

HEAD = "the head of the Ray cluster cannot be reached"
NOTICED = 0.2  # seconds after which a wait looks for lost machines
SETTLED = 1.0  # seconds between the end of a process and that of its machine, if both end
LEARNED = 30.0  # seconds after which Ray knows that a process or a machine ended
REST = 60.0  # seconds without calls after a worker was lost


@dataclass(frozen=True)
class Shared:
    """The settings that all workers of an executor share.

    Args:
        cluster: the connection.
        start: the first call of each process. Its timeout is that of the start of the process.
        variables: environment variables of the processes.
        refuse: is told the node that cannot be used, and the reason.
        owner: notes the device of a worker; returns the name of another worker that has it, or ''.
    """

    cluster: Cluster
    start: WorkerCall
    variables: Mapping[str, str]
    refuse: Callable[[str, str], None]
    owner: Callable[[RayWorker, str], str]


class RayWorker:
    """A Ray actor with one GPU, or with its own CPUs, of one machine."""

    def __init__(self, name: str, shared: Shared, machine: Machine, place: NodePlace) -> None:
        self.name = name
        self.machine, self.place = machine, place
        self.device = ""  # of a process that runs; empty for a CPU
        self.rests_until = 0.0  # of time.monotonic(); no call before
        self._shared, self._cluster = shared, shared.cluster
        self._connection = shared.cluster.connection
        self._actor: Any = None

    def submit(self, call: WorkerCall) -> Future[Any]:
        """Start a call; no other call may be running.

        The future raises CallTimeout, WorkerDied, WorkerLost, the exception of the function, or
        CallError instead of an exception that cannot be sent.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with delayed_interrupts():
            threading.Thread(target=self._settle, args=(future, call), daemon=True).start()
        return future

    def replace(self) -> None:
        """End the process; the next call starts a new one."""
        import ray

        with delayed_interrupts():
            actor, self._actor, self.device = self._actor, None, ""
            # Without the connection, Ray ends the process itself.
            with suppress(WorkerLost), self._cluster.call(self._connection):
                if actor is not None:
                    ray.kill(actor)

    def _settle(self, future: Future[Any], call: WorkerCall) -> None:
        try:
            sent = packed(call)
            with self._cluster.call(self._connection):
                if self._actor is None:
                    self._begin()
                returned, value = self._answer(self._actor.run.remote(sent), call.timeout)
            if not returned:
                raise value
        except BaseException as error:
            if isinstance(error, WorkerLost):  # its machine may be in the list for some time
                self.rests_until = time.monotonic() + REST
            future.set_exception(error)
        else:
            future.set_result(value)

    def _begin(self) -> None:
        """Start the process."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        shared, cpus = self._shared, self.place.cpus
        threads = {} if cpus is None else {"OMP_NUM_THREADS": str(cpus)}
        options = {
            "num_cpus": cpus or 0,
            "num_gpus": 1 if cpus is None else 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self.machine.node, soft=False),
            "runtime_env": {"env_vars": dict(shared.variables) | threads},
        }
        if not self._cluster.answers():  # Ray would wait for the head for ever
            raise WorkerLost(HEAD)
        if not accepts(self.machine.address, self.machine.port):
            raise self._lost()
        self._actor = self._cluster.actors.options(**options).remote()
        try:
            sent = self._actor.set_up.remote(self.place, packed(shared.start))
            returned, value = self._answer(sent, shared.start.timeout)
        except CallTimeout:
            raise WorkerLost(
                f"{self.name} got no process in {shared.start.timeout:g} s, as its machine or its "
                "device is busy"
            ) from None
        reason = ""
        if not returned:
            reason = f"{type(value).__name__}: {value}"
        elif other := shared.owner(self, value):
            reason = f"it was given the device of {other}"
        if reason:
            self.replace()
            raise self._refused(reason)

    def _answer(self, reference: Any, timeout: float) -> tuple[bool, Any]:
        """Wait for the outcome of a method of the actor."""
        import ray
        from ray.exceptions import RayError

        limit = time.monotonic() + timeout
        try:
            while not ray.wait([reference], timeout=NOTICED)[0]:
                self._check()
                if time.monotonic() > limit:
                    raise CallTimeout(f"the call took longer than {timeout:g} s")
            outcome: tuple[bool, Any] = pickle.loads(ray.get(reference))
            return outcome
        except RayError as error:
            why = self._why(error)
            self.replace()
            raise why from error
        except (CallTimeout, WorkerLost):
            self.replace()
            raise

    def _check(self) -> None:
        """Raise WorkerLost if the machine or the head is lost."""
        if not self._cluster.connected.is_set():
            raise WorkerLost(HEAD)
        if not self._cluster.holds(self.machine):
            raise self._lost()

    def _refused(self, reason: str) -> WorkerLost:
        text = f"{self.name} cannot be set up: {reason}"
        self._shared.refuse(self.machine.node, text)
        return WorkerLost(text)

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"the machine of {self.name} is lost")

    def _why(self, error: Exception) -> Exception:
        """The error of the call that an exception of Ray stands for."""
        import ray
        from ray import exceptions

        if isinstance(error, exceptions.RayTaskError):
            return self._refused(f"{type(error.cause).__name__}: {error.cause}")
        if isinstance(error, exceptions.RuntimeEnvSetupError):
            return self._refused(one_line(error))
        if getattr(error, "actor_init_failed", False):
            return self._refused(one_line(error))
        # Ray may report the end of a process before that of its machine.
        time.sleep(SETTLED)
        limit = time.monotonic() + LEARNED
        while accepts(self.machine.address, self.machine.port):
            if not isinstance(error, exceptions.ActorUnavailableError):
                return self._lost() if "its node has died" in str(error) else death(str(error))
            if time.monotonic() > limit:
                break
            try:  # the connection broke; the next call may know more
                self._check()
                ray.get(self._actor.ping.remote(), timeout=1.0)
                return WorkerLost(f"the connection to {self.name} broke")
            except exceptions.GetTimeoutError:
                pass
            except exceptions.RayError as newer:
                error = newer
            except WorkerLost as lost:
                return lost
        return self._lost()


def death(text: str) -> WorkerDied | WorkerLost:
    """The error for a process that ended on a machine that is there, from the text of Ray."""
    if "SIGTERM" in text:
        return WorkerLost("the worker process was ended from outside by SIGTERM")
    if "low on memory" in text or "OutOfMemory" in text:
        return WorkerDied("the worker process was ended by Ray, as its machine ran out of memory")
    if found := re.search(r"exit code (-?\d+)", text):
        return WorkerDied(f"the worker process ended with exit status {found[1]}")
    if "connection error" in text:
        return WorkerDied(
            "the worker process crashed or was killed, as the system does when memory runs out"
        )
    return WorkerDied("the worker process ended")
