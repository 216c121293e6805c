"""Adds operations, tensors and errors to kernels: the deterministic gate must name each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bench.cli.gate_command import FINE, REGRESSION
from bench.counts import counts_file, differences
from bench.gate_proof.changes import (
    BACKWARD,
    DECODE,
    FORWARD,
    Kernel,
    operation,
    scaled,
    temporary,
)
from bench.gate_proof.counts_gate import SEQ_LEN, CountsRun, counts
from bench.gate_proof.source_copies import SourceCopies

TRIAL = 1e-3  # relative change of the scale that shows how much it changes an error
UNCHANGED = "sliding_window window_size=256 causal forward"  # a case that no change touches
TENSOR = ("peak_bytes", "operation new_empty")


@dataclass(frozen=True)
class CountedChange:
    """A change of a kernel.

    Attributes:
        name: the change in words.
        kernel: its place.
        numbers: the numbers that the gate must name with the figures before and now.
    """

    name: str
    kernel: Kernel
    numbers: tuple[str, ...]

    def named(self, run: CountsRun) -> list[str]:
        """The sentences about the numbers; empty if one is missing or lacks a figure."""
        found = [
            [it for it in run.about(self.kernel.case) if it.startswith(f"{number}: ")]
            for number in self.numbers
        ]
        whole = all(own and " before, " in own[0] and " now" in own[0] for own in found)
        return [own[0] for own in found] if whole else []


ADDED = (
    CountedChange("one operation, forward", FORWARD[2], ("operation mul",)),
    CountedChange("one operation, backward", BACKWARD[1], ("operation mul",)),
    CountedChange("one operation, decode", DECODE[1], ("operation mul",)),
    CountedChange("one temporary tensor, forward", FORWARD[0], TENSOR),
    CountedChange("one temporary tensor, backward", BACKWARD[0], TENSOR),
    CountedChange("one temporary tensor, backward", BACKWARD[2], TENSOR),
    CountedChange("one temporary tensor, decode", DECODE[0], TENSOR),
)
ERROR = CountedChange("error, twice the tolerance, forward", FORWARD[1], ("error",))
ROUNDING = CountedChange(
    "error of rounding, twice the floor, decode", DECODE[2], ("rounding_error",)
)
# No change is in a function that the case of another one calls. So one copy has all changes.
CHANGES = (*ADDED, ERROR, ROUNDING)
PATTERNS = (*(one.kernel.pattern(SEQ_LEN) for one in CHANGES), f"{UNCHANGED} n={SEQ_LEN} *")


def changed_copy(copies: SourceCopies, known: Path) -> Path:
    """A copy of the sources with all changes.

    Args:
        copies: makes copies.
        known: file of counts of the unchanged sources.
    """
    factors = _factors(copies, known)
    folder = copies.new("changed")
    for one in ADDED:
        statements = operation if one.numbers != TENSOR else temporary
        one.kernel.add(folder, statements(one.kernel))
    for one, factor in factors.items():
        one.kernel.add(folder, scaled(factor))
    return folder


def _factors(copies: SourceCopies, known: Path) -> dict[CountedChange, float]:
    """The factors on the scale that give errors of the wanted size."""
    folder, file = copies.new("trial"), copies.folder / "trial.toml"
    for one in (ERROR, ROUNDING):
        one.kernel.add(folder, scaled(1 + TRIAL))
    counts(folder, file, PATTERNS, update=True)
    before, trial = (counts_file.read(it).case for it in (known, file))

    def of(one: CountedChange) -> tuple[float, float]:
        (name,) = (it for it in before if it.startswith(f"{one.kernel.case} n="))
        (number,) = one.numbers
        return getattr(before[name], number), getattr(trial[name], number)

    error, larger = of(ERROR)
    floor, above = of(ROUNDING)
    # The error of the method changes in proportion to the scale; an error of rounding is
    # independent of it, so their squares add up.
    return {
        ERROR: 1 + TRIAL * 2 * differences.ERROR * error / abs(larger - error),
        ROUNDING: 1 + TRIAL * math.sqrt(3) * floor / math.sqrt(above**2 - floor**2),
    }


def baseline(copies: SourceCopies) -> Path:
    """The file of counts of the unchanged sources."""
    file = copies.folder / "base.toml"
    click.echo(f"counting {len(PATTERNS)} cases of the unchanged code")
    counts(copies.base, file, PATTERNS, update=True)
    return file


def is_accepted(run: CountsRun) -> bool:
    """Whether the gate found no change."""
    return run.status == FINE and not run.said


def caught(run: CountsRun, changes: Sequence[CountedChange] = CHANGES) -> dict[CountedChange, bool]:
    """Whether the gate failed and named each change."""
    return {one: run.status == REGRESSION and bool(one.named(run)) for one in changes}
