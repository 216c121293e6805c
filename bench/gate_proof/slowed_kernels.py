"""Adds work to kernels: the time gate must find that they are slower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bench.cli import revision_gate
from bench.cli.gate_options import BAND, GateSettings
from bench.gate_proof.busy_process import busy_process
from bench.gate_proof.calibration import NO_WORK, Slowdown, slowdowns
from bench.gate_proof.changes import KERNELS, Kernel
from bench.gate_proof.source_copies import SourceCopies
from bench.schema.case import Case
from bench.time_gate import gate_cases
from bench.time_gate.gate import CaseOutcome, GatePlan
from bench.time_gate.gate_summary import verdict_of
from bench.time_gate.verdict import TimeVerdict

SIZES = (0.05, 0.10, 0.30)
SEQ_LEN = 512  # of the cases that are timed


@dataclass(frozen=True)
class Slowed:
    """The verdict on a kernel to which work was added.

    Attributes:
        size: share that the work should add to the time.
        slowdown: the work, and the share that it adds.
        backwards: the slowed code was base, so that head is faster.
        busy: another process computed meanwhile.
    """

    kernel: Kernel
    size: float
    slowdown: Slowdown
    backwards: bool
    busy: bool
    outcome: CaseOutcome

    @property
    def verdict(self) -> str:
        """The answer of the gate."""
        return verdict_of(self.outcome)

    @property
    def caught(self) -> bool:
        """Whether the answer is right."""
        return self.verdict == (TimeVerdict.FASTER if self.backwards else TimeVerdict.SLOWER)

    def line(self) -> str:
        """The size, the side and the answer in words."""
        judged = self.outcome.judgement
        ratio = "" if judged is None else f" ({judged.ratio:.3f}, {judged.rounds} rounds)"
        side = "base" if self.backwards else "head"
        return f"{self.size:.0%} in {side}: {self.verdict}{ratio}: {self.kernel.case}"


class TimedKernels:
    """Compares copies of the sources with the time gate.

    Args:
        copies: makes copies.
        rounds: of the gate.
    """

    def __init__(self, copies: SourceCopies, rounds: int) -> None:
        self._copies = copies
        patterns = tuple(one.pattern(SEQ_LEN) for one in KERNELS)
        settings = GateSettings(None, patterns, (), "cpu", 1, rounds, BAND, None)
        self._cases, self._files, timeout = revision_gate.chosen_cases(settings)
        self._plan = GatePlan(
            copies.base, copies.base, copies.folder, rounds=rounds, timeout=timeout
        )

    def case(self, kernel: Kernel) -> tuple[str, Case]:
        """The case of a kernel, and its name."""
        (found,) = gate_cases.selected(self._cases, [kernel.pattern(SEQ_LEN)]).items()
        return found

    def compare(self, base: Path, head: Path) -> Mapping[Kernel, CaseOutcome]:
        """The outcome for each kernel of two copies."""
        plan = replace(self._plan, base=base, head=head)
        outcomes = {it.name: it for it in revision_gate.measured(plan, self._cases, self._files)}
        return {one: outcomes[self.case(one)[0]] for one in KERNELS}

    def calibrated(self) -> Mapping[tuple[Kernel, float], Slowdown]:
        """The work for each kernel and size."""
        folder = self._copies.new("calibrated")
        for one in KERNELS:
            one.slow_down(folder, NO_WORK)
        requests = gate_cases.requests(self._cases, self._files, self._copies.folder)
        return slowdowns(folder, {it: requests[self.case(it)[0]] for it in KERNELS}, SIZES)

    def repeat(
        self, work: Mapping[tuple[Kernel, float], Slowdown], repetition: int
    ) -> list[Slowed]:
        """Each kernel with each size, in as many comparisons as there are sizes.

        A third of the kernels, which changes with the repetition, is slowed down in base. Each
        second repetition has a busy process beside it.
        """
        found: list[Slowed] = []
        for turn in range(len(SIZES)):
            sizes = {it: SIZES[(i + turn) % len(SIZES)] for i, it in enumerate(KERNELS)}
            backwards = {it: (i // 3 + i + repetition) % 3 == 0 for i, it in enumerate(KERNELS)}
            name = f"{repetition}_{turn}"
            base, head = (self._copies.new(f"{side}_{name}") for side in ("base", "head"))
            for one, size in sizes.items():
                one.slow_down(base if backwards[one] else head, work[one, size].work)
            busy = repetition % 2 == 1
            click.echo(f"repetition {repetition + 1}, comparison {turn + 1} of {len(SIZES)}")
            with busy_process(busy):
                outcomes = self.compare(base, head)
            now = [
                Slowed(one, size, work[one, size], backwards[one], busy, outcomes[one])
                for one, size in sizes.items()
            ]
            click.echo("\n".join(one.line() for one in now))
            found += now
        return found
