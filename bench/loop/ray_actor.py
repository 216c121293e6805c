"""The process of a worker in a Ray cluster: takes its CPU cores, then runs one call at a time."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.loop.executor import Call

__all__ = ["ActorProcess", "Outcome", "Place", "cores_of", "opened", "packed"]

TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Place:
    """The share of a machine that a worker has.

    Args:
        index: number of the worker among those of its machine, from 0.
        cpus: number of CPUs, or None for a worker with a GPU.
    """

    index: int
    cpus: int | None


@dataclass(frozen=True)
class Outcome:
    """The result of a function, the exception that it raised, or the text of an exception that
    ends the process or cannot be sent."""

    result: Any = None
    error: Exception | None = None
    ended: str = ""


class ActorProcess:
    """The class of the Ray actors."""

    def set_up(self, place: Place, start: bytes) -> bytes:
        """Take the cores of a place and run the first call. The result of the outcome is the
        device: the UUID of the GPU, else the number that Ray gave; empty for a CPU."""
        if place.cpus is not None:
            cores = cores_of(place, _ordered_cores())
            if cores:  # before torch is imported: OpenMP reads it when it is loaded
                os.sched_setaffinity(0, cores)
        outcome = _run(start)
        if outcome.error is not None or outcome.ended:
            return _sent(outcome)
        if place.cpus is not None:
            import torch

            torch.set_num_threads(place.cpus)
            return _sent(Outcome(""))
        return _sent(Outcome(_device()))

    def run(self, call: bytes) -> bytes:
        """Run a call; returns its outcome."""
        return _sent(_run(call))

    def ping(self) -> None:
        """Return at once."""


def packed(call: Call) -> bytes:
    """The function of a call and its arguments. Raises the exceptions of pickle."""
    return pickle.dumps((call.function, call.arguments))


def opened(outcome: bytes) -> Outcome:
    """The outcome that a worker sent."""
    try:
        return pickle.loads(outcome)
    except Exception as error:
        text = f"the outcome of the call cannot be read here: {type(error).__name__}: {error}"
        return Outcome(error=RuntimeError(text))


def cores_of(place: Place, cores: Sequence[int]) -> Sequence[int]:
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


def _run(call: bytes) -> Outcome:
    try:
        function, arguments = pickle.loads(call)
        return Outcome(function(*arguments))
    except Exception as error:
        return Outcome(error=error)
    except BaseException as error:  # SystemExit, KeyboardInterrupt: they must not end the parent
        return Outcome(ended=f"{type(error).__name__}({error})")


def _sent(outcome: Outcome) -> bytes:
    """The bytes of an outcome. An exception that cannot be sent becomes a RuntimeError."""
    try:
        sent = pickle.dumps(outcome)
        if outcome.error is not None:
            pickle.loads(sent)  # some exceptions can be written but not read
        return sent
    except Exception as error:
        if outcome.error is not None:
            text = f"{type(outcome.error).__name__}: {outcome.error}"
        else:
            made = type(outcome.result).__name__
            text = f"the result of the call, of type {made}, cannot be sent: {error}"
        return pickle.dumps(Outcome(error=RuntimeError(text)))


def _device() -> str:
    import ray
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_properties(0).uuid)
    return ",".join(ray.get_runtime_context().get_accelerator_ids()["GPU"])
