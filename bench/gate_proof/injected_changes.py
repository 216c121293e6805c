"""Injects changes into copies of the sources, and shows which gate catches each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.cli import revision_gate
from bench.gate_proof.changes import KERNELS, Kernel
from bench.gate_proof.counted_changes import (
    PATTERNS,
    baseline,
    changed_copy,
    is_accepted,
    named,
)
from bench.gate_proof.counts_gate import CountsRun, counts
from bench.gate_proof.slowed_kernels import SIZES, Slowed, TimedKernels
from bench.gate_proof.source_copies import SourceCopies
from bench.time_gate.gate import CaseOutcome


@dataclass(frozen=True)
class Proof:
    """The answers of both gates.

    Attributes:
        unchanged: the counts of the unchanged code against themselves.
        changed: the counts with an operation, a tensor or an error in each kernel.
        timed: the outcomes of the time gate for the same changes.
        slowed: the verdicts of the time gate on kernels with added work.
        counted_work: the counts with added work.
    """

    unchanged: CountsRun
    changed: CountsRun
    timed: Mapping[Kernel, CaseOutcome]
    slowed: Sequence[Slowed]
    counted_work: CountsRun

    @property
    def complete(self) -> bool:
        """Whether each change was caught, each time."""
        return (
            is_accepted(self.unchanged)
            and all(named(one, self.changed) for one in KERNELS)
            and all(one.caught for one in self.slowed)
        )


def prove(repetitions: int, rounds: int) -> Proof:
    """Inject all changes, and ask both gates."""
    with revision_gate.scratch_folder() as scratch:
        copies = SourceCopies(scratch)
        file = baseline(copies)
        unchanged = counts(copies.base, file, PATTERNS)
        folder = changed_copy(copies, file)
        changed = counts(folder, file, PATTERNS)
        kernels = TimedKernels(copies, rounds)
        timed = kernels.compare(copies.base, folder)
        work = kernels.calibrated()
        slow = copies.new("slow")
        for one in KERNELS:
            one.slow_down(slow, work[one, SIZES[0]].work)
        counted_work = counts(slow, file, PATTERNS)
        slowed = [one for it in range(repetitions) for one in kernels.repeat(work, it)]
    return Proof(unchanged, changed, timed, slowed, counted_work)
