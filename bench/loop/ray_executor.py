"""Workers that are processes of the machines of a Ray cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from itertools import count

from bench.loop.executor import ExecutorError, WorkerCall
from bench.loop.interrupts import delayed_interrupts
from bench.loop.ray_actor import NodePlace
from bench.loop.ray_cluster import Cluster, Machine, Patience
from bench.loop.ray_worker import RayWorker, Shared

__all__ = ["RayExecutor"]


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
        start: WorkerCall,
        *,
        on_gpu: bool,
        cpus_per_case: int | None = None,
        address: str | None = None,
        variables: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._kind, self._cpus = "GPU" if on_gpu else "CPU", cpus_per_case
        self.cluster = Cluster(address, patience or Patience())
        self._shared = Shared(self.cluster, start, variables or {}, self._refuse, self._owner)
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
        if self._filled is None or now - self._filled > self.cluster.patience.machines:
            wanted = "a GPU" if self._kind == "GPU" else f"{self._cpus or 1} CPUs"
            raise ExecutorError(f"no machine of the Ray cluster at {self.cluster} has {wanted}")
        return []

    def close(self) -> None:
        """End all processes and the connection, and the cluster if it was started here."""
        with delayed_interrupts():
            for worker in self._workers.values():
                worker.replace()
            self.cluster.close()

    def _refuse(self, node: str, reason: str) -> None:
        self._refused[node] = reason

    def _owner(self, worker: RayWorker, device: str) -> str:
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
                self._workers[key] = RayWorker(name, self._shared, machine, NodePlace(index, cpus))

    def _shares(self, machine: Machine) -> int:
        """The number of workers of a machine."""
        number = int(machine.resources.get(self._kind, 0))
        if self._kind == "GPU":
            return number
        return number // self._cpus if self._cpus else min(number, 1)
