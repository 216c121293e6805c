"""Workers that are processes of the machines of a Ray cluster."""

from __future__ import annotations

import pickle
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any

from bench.loop.executor import Call, CallTimeout, ExecutorError, WorkerDied, WorkerLost
from bench.loop.interrupts import delayed_interrupts
from bench.loop.ray_actor import Place, packed
from bench.loop.ray_cluster import Cluster, Machine, Patience, accepts, one_line

__all__ = ["RayExecutor", "RayWorker"]

HEAD = "the head of the Ray cluster cannot be reached"
NOTICED = 0.2  # seconds after which a wait looks for lost machines
SETTLED = 1.0  # seconds between the end of a process and that of its machine, if both end
LEARNED = 30.0  # seconds after which Ray knows that a process or a machine ended
REST = 60.0  # seconds without calls after a worker was lost


class RayWorker:
    """A Ray actor with one GPU, or with its own CPUs, of one machine."""

    def __init__(self, name: str, executor: RayExecutor, machine: Machine, place: Place) -> None:
        self.name = name
        self.machine, self.place = machine, place
        self.device = ""  # of a process that runs; empty for a CPU
        self.rests_until = 0.0
        self._executor, self._cluster = executor, executor.cluster
        self._connection = executor.cluster.connection
        self._actor: Any = None

    def submit(self, call: Call) -> Future[Any]:
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

    def _settle(self, future: Future[Any], call: Call) -> None:
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

        executor, cpus = self._executor, self.place.cpus
        threads = {} if cpus is None else {"OMP_NUM_THREADS": str(cpus)}
        options = {
            "num_cpus": cpus or 0,
            "num_gpus": 1 if cpus is None else 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self.machine.node, soft=False),
            "runtime_env": {"env_vars": executor.variables | threads},
        }
        if not self._cluster.answers():  # Ray would wait for the head for ever
            raise WorkerLost(HEAD)
        if not accepts(self.machine.address, self.machine.port):
            raise self._lost()
        self._actor = self._cluster.actors.options(**options).remote()
        try:
            sent = self._actor.set_up.remote(self.place, packed(executor.start))
            returned, value = self._answer(sent, executor.patience.start)
        except CallTimeout:
            raise WorkerLost(
                f"{self.name} got no process in {executor.patience.start:g} s, as its machine or "
                f"device is busy"
            ) from None
        reason = ""
        if not returned:
            reason = f"{type(value).__name__}: {value}"
        elif other := executor.owner(self, value):
            reason = f"it was given the device of {other}"
        if reason:
            self.replace()
            raise executor.refuse(self, reason)

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

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"the machine of {self.name} is lost")

    def _why(self, error: Exception) -> Exception:
        """The error of the call that an exception of Ray stands for."""
        import ray
        from ray import exceptions

        if isinstance(error, exceptions.RayTaskError):
            return self._executor.refuse(self, f"{type(error.cause).__name__}: {error.cause}")
        if isinstance(error, exceptions.RuntimeEnvSetupError):
            return self._executor.refuse(self, one_line(error))
        if getattr(error, "actor_init_failed", False):
            return self._executor.refuse(self, one_line(error))
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


class RayExecutor:
    """Workers on all machines of a Ray cluster: one for each GPU, or for each number of CPUs.

    Args:
        start: the first call of each process.
        on_gpu: each worker has one GPU.
        cpus_per_case: CPUs of each worker without a GPU, which no other worker of the machine
            has; None for all CPUs of a node.
        address: the address of the cluster, as in `Cluster`.
        variables: environment variables of the processes.
        patience: seconds to wait.

    Raises:
        ExecutorError: Ray is not installed, or there is no cluster.
    """

    several_machines = True

    def __init__(
        self,
        start: Call,
        *,
        on_gpu: bool,
        cpus_per_case: int | None = None,
        address: str | None = None,
        variables: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.start, self.patience = start, patience or Patience()
        self.variables = dict(variables or {})
        self._kind, self._cpus = "GPU" if on_gpu else "CPU", cpus_per_case
        self.cluster = Cluster(address, self.patience)
        self._connection = self.cluster.connection
        self._workers: dict[tuple[str, int], RayWorker] = {}
        self._refused: dict[str, str] = {}
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._filled: float | None = None  # when there were workers last

    def workers(self) -> Sequence[RayWorker]:
        """The workers that can be used now; none while the head is lost.

        Raises:
            ExecutorError: the cluster has no such device, or refuses all work, or has been without
                machines for too long.
        """
        machines = self.cluster.machines()
        now = time.monotonic()
        with self._lock:
            self._keep(machines)
            held = [w for w in self._workers.values() if w.machine.node not in self._refused]
            if held:
                self._filled = now
                return [worker for worker in held if worker.rests_until <= now]
            if not self.cluster.connected.is_set():
                self._filled = now  # the cluster itself gives up after some time
                return []
            refused = [self._refused[m.node] for m in machines if m.node in self._refused]
        if refused:
            raise ExecutorError(f"no machine of the Ray cluster can be used: {refused[0]}")
        if self._filled is None or now - self._filled > self.patience.machines:
            wanted = "a GPU" if self._kind == "GPU" else f"{self._cpus or 1} CPUs"
            raise ExecutorError(f"no machine of the Ray cluster at {self.cluster} has {wanted}")
        return []

    def close(self) -> None:
        """End all processes and the connection, and the cluster if it was started here."""
        with delayed_interrupts():
            for worker in self._workers.values():
                worker.replace()
            self.cluster.close()

    def refuse(self, worker: RayWorker, reason: str) -> WorkerLost:
        """Use the machine of a worker no more. Returns the exception that says so."""
        self._refused[worker.machine.node] = text = f"{worker.name} cannot be set up: {reason}"
        return WorkerLost(text)

    def owner(self, worker: RayWorker, device: str) -> str:
        """Note the device of a worker. Returns the name of another worker that has it, or ''."""
        with self._lock:
            if device:
                for other in self._workers.values():
                    same = (other.machine.address, other.device) == (worker.machine.address, device)
                    if same and other is not worker:
                        return other.name
            worker.device = device
            return ""

    def _keep(self, machines: Sequence[Machine]) -> None:
        """Keep a worker for each share of each machine."""
        if self._connection != self.cluster.connection:
            self._workers.clear()
            self._connection = self.cluster.connection
        wanted = {
            (machine.node, number): machine
            for machine in machines
            for number in range(self._shares(machine))
        }
        self._workers = {key: self._workers[key] for key in self._workers if key in wanted}
        for key, machine in wanted.items():
            if key not in self._workers:
                # Nodes that share a machine also share its cores.
                beside = [w for w in self._workers.values() if w.machine.address == machine.address]
                taken = {worker.place.index for worker in beside}
                index = next(number for number in count() if number not in taken)
                name = f"worker {next(self._numbers)}"
                cpus = None
                if self._kind == "CPU":
                    cpus = self._cpus or int(machine.resources["CPU"])
                self._workers[key] = RayWorker(name, self, machine, Place(index, cpus))

    def _shares(self, machine: Machine) -> int:
        """The number of workers of a machine."""
        number = int(machine.resources.get(self._kind, 0))
        if self._kind == "GPU":
            return number
        return number // self._cpus if self._cpus else min(number, 1)


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
