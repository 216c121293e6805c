"""Compares equal code with itself many times and counts the verdicts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import torch

from bench.cli import revision_gate
from bench.cli.gate_options import GateSettings
from bench.cli.options import chosen_device
from bench.gate_proof.busy_process import busy_process
from bench.gate_proof.exact_rates import rate
from bench.instruments import environment
from bench.schema.machine_kind import fingerprint
from bench.time_gate import revisions
from bench.time_gate.gate import CaseOutcome, GatePlan
from bench.time_gate.gate_summary import FAILED
from bench.time_gate.verdict import TimeVerdict

FAMILY = 20  # cases
NUMBERS = ("ratio", "low", "high", "noise", "rounds")
COLUMNS = ("commit", "machine", "run", "busy", "case", "verdict", *NUMBERS)
Rows = Sequence[Mapping[str, str]]


def measure(settings: GateSettings, runs: int, file: Path) -> None:
    """Add the verdicts of some runs to a CSV file. Every fourth run has a busy process beside it.

    Both sides are the working tree. Each `FAMILY` cases count as one comparison. The numbers of the
    runs continue those of the file.
    """
    first = _next_run(file)
    described = environment.describe(torch.device(chosen_device(settings.device)))
    facts = {"commit": described["software"]["commit"], "machine": fingerprint(described)}
    cases, files, timeout = revision_gate.chosen_cases(settings)
    with revision_gate.scratch_folder() as scratch:
        for name in ("base", "head"):
            revision_gate.build(revisions.resolve(revisions.WORKTREE), scratch / name)
        plan = GatePlan(
            scratch / "base",
            scratch / "head",
            scratch,
            threads=settings.threads,
            rounds=settings.rounds,
            band=settings.band,
            timeout=timeout,
            family=FAMILY,
        )
        with _table(file) as table:
            for run in range(first, first + runs):
                busy = run % 4 == 3
                said = " beside a busy process" if busy else ""
                click.echo(f"run {run - first + 1} of {runs}{said}")
                with busy_process(busy):
                    outcomes = revision_gate.measured(plan, cases, files)
                table.writerows(facts | _row(run, busy, one) for one in outcomes)


def _next_run(file: Path) -> int:
    """The number after the last run of a file."""
    if not file.exists():
        return 0
    with file.open(newline="") as stream:
        return max((int(row["run"]) + 1 for row in csv.DictReader(stream)), default=0)


@contextmanager
def _table(file: Path) -> Iterator[csv.DictWriter[str]]:
    """The CSV file, to which rows are added."""
    file.parent.mkdir(parents=True, exist_ok=True)
    is_new = not file.exists()
    with file.open("a", newline="", buffering=1) as stream:
        table = csv.DictWriter(stream, COLUMNS)
        if is_new:
            table.writeheader()
        yield table


def _row(run: int, busy: bool, outcome: CaseOutcome) -> dict[str, object]:
    judged = outcome.judgement
    if outcome.failure or judged is None:
        why = f"{FAILED}: {outcome.failure or outcome.missing}"
        return {"run": run, "busy": busy, "case": outcome.name, "verdict": why}
    numbers = {name: getattr(judged, name) for name in NUMBERS}
    return {"run": run, "busy": busy, "case": outcome.name, "verdict": judged.verdict, **numbers}


def summary(files: Sequence[Path]) -> Iterator[str]:
    """The rates in words, with 95 % intervals."""
    rows: list[Mapping[str, str]] = []
    families: list[Rows] = []
    for file in files:
        with file.open(newline="") as stream:
            own = list(csv.DictReader(stream))
        rows += own
        for run in dict.fromkeys(row["run"] for row in own):
            of_run = [row for row in own if row["run"] == run]
            whole = len(of_run) // FAMILY * FAMILY
            families += [of_run[start : start + FAMILY] for start in range(0, whole, FAMILY)]
    for name, chosen in (
        ("all runs", rows),
        ("beside a busy process", [row for row in rows if row["busy"] == "True"]),
        ("without it", [row for row in rows if row["busy"] == "False"]),
    ):
        counts = Counter(row["verdict"].partition(":")[0] for row in chosen)
        failed = counts.pop(FAILED, 0)
        false = rate(sum(map(_is_alarm, chosen)), counts.total())
        yield f"{name}: {counts.total()} verdicts, {dict(counts)}, {failed} failed; false: {false}"
    alarmed = sum(any(map(_is_alarm, family)) for family in families)
    found = rate(alarmed, len(families))
    yield f"comparisons of {FAMILY} cases with a false verdict: {found}"
    yield f"{len({row['case'] for row in rows})} cases"


def _is_alarm(row: Mapping[str, str]) -> bool:
    return row["verdict"] in (TimeVerdict.SLOWER, TimeVerdict.FASTER)
