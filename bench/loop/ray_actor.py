"""The process of a worker in a Ray cluster: takes its CPU cores, then runs one call at a time."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.loop.executor import WorkerCall
from bench.loop.process_control import adopt_orphans
from bench.loop.serving import outcome_of

__all__ = ["ActorProcess", "NodePlace", "cores_of", "packed"]

TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class NodePlace:
    """The share of a machine that a worker has.

    Args:
        index: number of the worker among those of its machine, from 0.
        cpus: number of CPUs, or None for a worker with a GPU.
    """

    index: int
    cpus: int | None


class ActorProcess:
    """The class of the Ray actors."""

    def set_up(self, place: NodePlace, start: bytes) -> bytes:
        """Take the cores of a place and run the first call.

        Returns the outcome, as `outcome_of` does. Its value is the device: the UUID of the GPU,
        else the number that Ray gave; empty for a CPU.
        """
        adopt_orphans()
        if place.cpus is not None:
            # The main thread runs all calls, and the threads of OpenMP begin in it.
            cores = cores_of(place, _ordered_cores())
            if cores:
                os.sched_setaffinity(0, cores)
        return outcome_of(pickle.dumps((_begin, (place.cpus, start))))

    def run(self, call: bytes) -> bytes:
        """Run a call; returns its outcome."""
        return outcome_of(call)

    def ping(self) -> None:
        """Return at once."""


def packed(call: WorkerCall) -> bytes:
    """The function of a call and its arguments. Raises the exceptions of pickle."""
    return pickle.dumps((call.function, call.arguments))


def cores_of(place: NodePlace, cores: Sequence[int]) -> Sequence[int]:
    """The cores of a place, which no other place of this machine has; none if there are too few.

    Args:
        place: a place of a CPU worker.
        cores: the cores that this process may use.
    """
    assert place.cpus is not None
    first = place.index * place.cpus
    found = cores[first : first + place.cpus]
    return found if len(found) == place.cpus else ()


def _ordered_cores() -> list[int]:
    """The logical CPUs that this process may use, one of each physical core before the others."""
    order = []
    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            text = (TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            text = str(cpu)
        siblings = [int(n) for part in text.strip().split(",") for n in _ends(part)]
        order.append((cpu != min(siblings), cpu))
    return [cpu for _, cpu in sorted(order)]


def _ends(part: str) -> list[str]:
    """The first and the last number of a range such as `0-1`."""
    return part.split("-")


def _begin(cpus: int | None, start: bytes) -> str:
    function, arguments = pickle.loads(start)
    function(*arguments)
    import ray
    import torch

    if cpus is not None:
        torch.set_num_threads(cpus)
        return ""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_properties(0).uuid)
    return ",".join(ray.get_runtime_context().get_accelerator_ids()["GPU"])
