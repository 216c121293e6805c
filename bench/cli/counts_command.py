"""The command `python -m bench counts`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import click
import torch

from bench.cli.counts_of_base import counted_revision, updated_cases
from bench.cli.gate_command import REGRESSION, GateCommand, NotMeasuredError
from bench.cli.gate_options import CASE_HELP
from bench.counts import call_counts, counts_file
from bench.counts.call_counts import CallCounts
from bench.counts.counts_file import OtherVersionsError
from bench.counts.differences import Difference, differences
from bench.schema.case import Case
from bench.schema.case_names import benchmark_name
from bench.schema.validation import FileError, name_of, reason
from bench.time_gate import revisions
from bench.time_gate.gate_cases import selected
from bench.workloads.attention.given_inputs import Given

FILE = Path("tests") / "counts.toml"
MOST_SHOWN = 40  # cases


@click.command(cls=GateCommand)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--base",
    metavar="REVISION",
    help="Compare with the variants of a revision, which are counted now, and not with a file.",
)
@click.option("--update", is_flag=True, help="Write the file anew.")
@click.option(
    "--case",
    "patterns",
    multiple=True,
    metavar="NAME",
    help=f"{CASE_HELP} With --update, the other cases of the file stay as they are.",
)
@click.option(
    "--if-comparable",
    is_flag=True,
    help="Exit with 0 if the file is of other versions or another kind of CPU, and say so.",
)
def counts(
    file: Path | None,
    base: str | None,
    update: bool,
    patterns: tuple[str, ...],
    if_comparable: bool,
) -> None:
    """Compare bytes, operations and errors of all variants with a file; no time is measured.

    FILE is tests/counts.toml unless given. The numbers do not depend on the load of the machine. A
    difference names the case, the number before and now, and the operations that changed.

    With --base, a case may differ if tests/counts.toml was updated for it since that revision.
    """
    if base is not None:
        if file is not None or update or if_comparable:
            raise click.UsageError("--base takes no FILE, and neither --update nor --if-comparable")
        revision = revisions.resolve(base)
        known = counted_revision(revision, patterns)
        now, failed = _counted(_planned(patterns, {}))
        for name in {*now, *failed} - {*known}:
            click.echo(f"{name} is not in {revision.label}")
        now = {name: one for name, one in now.items() if name in known}
        failed = {name: why for name, why in failed.items() if name in known}
        _compare(known, now, failed, revision.label, intended=updated_cases(revision, FILE))
        return
    file = file or FILE
    try:
        known = _known(file, update, patterns)
    except OtherVersionsError as error:
        if not if_comparable:
            raise NotMeasuredError(str(error)) from error
        click.echo(f"NOT COMPARED: {error}")
        return
    planned = _planned(patterns, known)
    chosen = selected(dict.fromkeys([*known, *planned]), patterns) if patterns else known
    now, failed = _counted(planned)
    if update:
        for name, why in failed.items():
            raise NotMeasuredError(f"case {name} cannot be counted: {why}")
        others = {name: one for name, one in known.items() if name not in chosen}
        _write(file, {**others, **now})
        click.echo(f"{file}: {len(now)} cases")
        return
    known = {name: one for name, one in known.items() if name in chosen}
    _compare(known, now, failed, str(file))


def _planned(patterns: tuple[str, ...], known: Mapping[str, CallCounts]) -> dict[str, Case]:
    """The cases of the code that are selected from its own and from those of the file."""
    planned = {benchmark_name(case.values): case for case in call_counts.cases()}
    if patterns:
        chosen = selected(dict.fromkeys([*known, *planned]), patterns)
        planned = {name: case for name, case in planned.items() if name in chosen}
    return planned


def _compare(
    known: Mapping[str, CallCounts],
    now: Mapping[str, CallCounts],
    failed: Mapping[str, str],
    place: str,
    intended: Collection[str] = (),
) -> None:
    """Print the differences; exit with `REGRESSION` if there are any that are not intended.

    Args:
        known: the counts before.
        now: those of the code.
        failed: by case, why a call fails now.
        place: where the counts before are from.
        intended: the cases that may differ.
    """
    found = [Difference(name, (f"the call fails: {why}",)) for name, why in failed.items()]
    found += differences({name: known[name] for name in known if name not in failed}, now, place)
    for one in found[:MOST_SHOWN]:
        click.echo("\n  ".join([one.case, *one.sentences]))
    if len(found) > MOST_SHOWN:
        click.echo(f"and {len(found) - MOST_SHOWN} more cases")
    if not found:
        click.echo(f"{len(now)} cases are as in {place}")
        return
    total = len({*known, *now, *failed})
    click.echo(f"{len(found)} of {total} cases differ from {place}.")
    wrong = [one for one in found if one.case in failed or one.case not in intended]
    if intended:
        click.echo(f"{FILE} was updated for {len(found) - len(wrong)} of them.")
    if wrong:
        if place == str(FILE) or intended:
            click.echo("If this is intended, run `make update-baseline`, and commit the file.")
        sys.exit(REGRESSION)


def _known(file: Path, update: bool, patterns: tuple[str, ...]) -> Mapping[str, CallCounts]:
    """The counts of the file that a call needs: all, or those that an update leaves as they are.

    Raises:
        FileError: the file cannot be read.
    """
    if update and not (patterns and file.exists()):
        return {}
    return counts_file.read(file).case


def _write(file: Path, cases: Mapping[str, CallCounts]) -> None:
    """Write the file; FileError if that is not possible."""
    try:
        counts_file.write(file, cases)
    except OSError as error:
        raise FileError(f"cannot write {name_of(file)}: {reason(error)}") from None


def _counted(planned: Mapping[str, Case]) -> tuple[dict[str, CallCounts], dict[str, str]]:
    """By the names of the cases, the counts, and the reasons why calls failed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the number of threads decides the size of some buffers
    gc.collect()
    gc.freeze()  # the collections of a measurement of memory skip the imported modules
    given: dict[object, Given] = {}
    found, failed = {}, {}
    try:
        with click.progressbar(planned.items(), label="counting", file=sys.stderr) as bar:
            for name, case in bar:
                if case.shape not in given:
                    given = {case.shape: Given.load(case, {})}
                try:
                    found[name] = call_counts.count(case, given[case.shape])
                except Exception as error:
                    failed[name] = f"{type(error).__name__}: {error}"
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
    return found, failed
