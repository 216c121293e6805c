"""Adds operations, tensors and errors to kernels: `bench counts` must name each."""

from __future__ import annotations

import math
from pathlib import Path

import click

from bench.cli.gate_command import FINE, REGRESSION
from bench.counts import counts_file
from bench.counts.call_counts import CallCounts
from bench.gate_proof.changes import (
    KERNELS,
    UNCHANGED,
    Kernel,
    operation,
    scaled,
    scaled_gradients,
    temporary,
)
from bench.gate_proof.counts_gate import SEQ_LEN, CountsRun, counts
from bench.gate_proof.source_copies import SourceCopies
from bench.schema import error_tolerances

TRIAL = 1e-3  # relative change of the scale that shows how much it changes an error
WORDS = {
    "operation": "one operation",
    "temporary": "one temporary tensor",
    "error": "error, by twice the tolerance",
    "gradient_error": "error of the gradients, by twice the tolerance",
    "rounding_error": "error of rounding, twice as large",
}
NUMBERS = {
    "operation": ("operation mul",),
    "temporary": ("peak_bytes", "operation new_empty"),
    "error": ("error",),
    "gradient_error": ("error of the gradient of the value",),
    "rounding_error": ("rounding_error",),
}
PATTERNS = (
    *(one.pattern(SEQ_LEN) for one in KERNELS),
    f"{UNCHANGED} n={SEQ_LEN} *",
)


def named(kernel: Kernel, run: CountsRun) -> list[str]:
    """The sentences about the change of a kernel.

    It is empty if the gate did not name the case and each number with the figures before and now.
    """
    found = [
        [it for it in run.about(kernel.case) if it.startswith(f"{number}: ")]
        for number in NUMBERS[kernel.change]
    ]
    whole = all(own and " before, " in own[0] and " now" in own[0] for own in found)
    return [own[0] for own in found] if whole and run.status == REGRESSION else []


def changed_copy(copies: SourceCopies, known: Path) -> Path:
    """A copy of the sources with all changes.

    Args:
        copies: makes copies.
        known: file of counts of the unchanged sources.
    """
    folder = copies.new("changed")
    for one in KERNELS:
        if one.change in ("operation", "temporary"):
            one.add(folder, operation(one) if one.change == "operation" else temporary(one))
    for one, factor in _factors(copies, known).items():
        one.add(folder, _other_scale(one, factor))
    return folder


def _factors(copies: SourceCopies, known: Path) -> dict[Kernel, float]:
    """The factors on the scores or the gradients that give errors of the wanted size."""
    changed = [one for one in KERNELS if one.change.endswith("error")]
    folder, file = copies.new("trial"), copies.folder / "trial.toml"
    for one in changed:
        one.add(folder, _other_scale(one, 1 + TRIAL))
    counts(folder, file, PATTERNS, update=True)
    before, trial = (counts_file.read(it).case for it in (known, file))
    found = {}
    for one in changed:
        (name,) = (it for it in before if it.startswith(f"{one.case} n="))
        old, new = (_error(one, it[name]) for it in (before, trial))
        if one.change == "rounding_error":  # independent of the change: the squares add up
            found[one] = 1 + TRIAL * math.sqrt(3) * old / math.sqrt(new**2 - old**2)
        else:  # the error changes in proportion to the scale
            found[one] = 1 + TRIAL * 2 * error_tolerances.RELATIVE * old / abs(new - old)
    return found


def _error(kernel: Kernel, of: CallCounts) -> float:
    """The error that the change of a kernel makes larger."""
    errors = {
        "error": of.error,
        "gradient_error": of.gradient_errors.get("value", math.nan),
        "rounding_error": of.rounding_error,
    }
    return errors[kernel.change]


def _other_scale(kernel: Kernel, factor: float) -> str:
    """Another scale of the scores, or of the gradients."""
    return scaled_gradients(factor) if kernel.change == "gradient_error" else scaled(factor)


def baseline(copies: SourceCopies) -> Path:
    """The file of counts of the unchanged sources."""
    file = copies.folder / "base.toml"
    click.echo(f"counting {len(PATTERNS)} cases of the unchanged code")
    counts(copies.base, file, PATTERNS, update=True)
    return file


def is_accepted(run: CountsRun) -> bool:
    """Whether the gate found no change."""
    return run.status == FINE and not run.said
