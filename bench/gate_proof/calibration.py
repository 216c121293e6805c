"""Finds amounts of work that make a call slower by given shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.gate_proof.changes import AddedWork, Kernel
from bench.time_gate.side import Side

OPERATION = 20_000.0  # nanoseconds that one operation should take
ELEMENTS = 16_000  # first guess
TRIES = 3
SECONDS = 0.8  # of a try
LONG = 3.0  # seconds of the measurement that reports the shares, and decides nothing
TIMEOUT = 240.0
NO_WORK = AddedWork(0, 0)


@dataclass(frozen=True)
class Slowdown:
    """AddedWork for a kernel, and the share by which it makes the call slower.

    Attributes:
        work: added to the kernel.
        share: measured in another process than that in which the work was chosen.
    """

    work: AddedWork
    share: float


def slowdowns(
    folder: Path, requests: Mapping[Kernel, dict[str, Any]], shares: Sequence[float]
) -> dict[tuple[Kernel, float], Slowdown]:
    """The work for each kernel and share.

    Args:
        folder: a copy of the sources in which all kernels have been slowed down by no work.
        requests: the case of each kernel, as `GateWorker.prepare` takes it.
        shares: such as 0.05.
    """
    click.echo(f"choosing work for {len(requests)} kernels")
    with _side(folder) as side:
        works = {}
        for one, request in requests.items():
            alone = _measured(side, one, request, NO_WORK, SECONDS / 2)["ns"]
            works[one] = [_work(side, one, request, share, alone) for share in shares]
    found = {}
    with _side(folder) as side:
        for one, request in requests.items():
            for share, work in zip(shares, works[one], strict=True):
                true = _measured(side, one, request, work, LONG)["share"]
                found[one, share] = Slowdown(work, true)
                click.echo(f"{share:.0%} wanted, {true:.1%} added: {one.case}")
    return found


@contextmanager
def _side(folder: Path) -> Iterator[Side]:
    """A new process that has started."""
    with Side(folder, 1, "bench.gate_proof.slowed_worker") as side:
        side.started()
        yield side


def _work(
    side: Side, kernel: Kernel, request: dict[str, Any], share: float, alone: float
) -> AddedWork:
    """AddedWork that adds a share to the time of a call, which takes `alone` nanoseconds.

    Each share has its own: an operation may cost more if others follow it.
    """
    work = AddedWork(math.ceil(share * alone / OPERATION), ELEMENTS)
    for _ in range(TRIES):
        added = _measured(side, kernel, request, work, SECONDS)["share"]
        work = AddedWork(work.operations, corrected(work.elements, share / added))
    return work


def corrected(elements: int, factor: float) -> int:
    """The number of elements for another time, changed by at most a factor of 10."""
    return max(1, round(elements * (min(factor, 10.0) if factor > 0 else 10.0)))


def _measured(
    side: Side,
    kernel: Kernel,
    request: dict[str, Any],
    work: AddedWork,
    seconds: float,
) -> dict[str, Any]:
    side.ask("prepare", TIMEOUT, case=request)
    amount = (work.operations, work.elements)
    place = {"module": kernel.module, "name": kernel.work_name}
    return side.ask("slowdown", TIMEOUT, **place, work=amount, seconds=seconds)
