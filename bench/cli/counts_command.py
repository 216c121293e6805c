"""The command `python -m bench counts`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import torch

from bench.cli.gate_command import REGRESSION, GateCommand, NotMeasuredError
from bench.counts import call_counts, counts_file
from bench.counts.call_counts import CallCounts
from bench.counts.counts_file import OtherVersionsError
from bench.counts.differences import Difference, differences
from bench.schema.case import Case
from bench.schema.case_names import benchmark_name
from bench.schema.validation import FileError, name_of, reason
from bench.time_gate.gate_cases import selected
from bench.workloads.attention.given_inputs import Given

FILE = Path("tests") / "counts.toml"
MOST_SHOWN = 40  # cases


@click.command(cls=GateCommand)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=FILE)
@click.option("--update", is_flag=True, help="Write the file anew.")
@click.option(
    "--case",
    "patterns",
    multiple=True,
    metavar="NAME",
    help="Only the case with this name, or those that a pattern such as 'lsh *' matches; may be "
    "given several times. With --update, the other cases of the file stay as they are.",
)
@click.option(
    "--if-comparable",
    is_flag=True,
    help="Exit with 0 if the file is of other versions or another kind of CPU, and say so.",
)
def counts(file: Path, update: bool, patterns: tuple[str, ...], if_comparable: bool) -> None:
    """Compare bytes, operations and errors of all variants with a file; no time is measured.

    FILE is tests/counts.toml unless given. The numbers do not depend on the load of the machine. A
    difference names the case, the number before and now, and the operations that changed.
    """
    try:
        known = _known(file, update, patterns)
    except OtherVersionsError as error:
        if not if_comparable:
            raise NotMeasuredError(str(error)) from error
        click.echo(f"NOT COMPARED: {error}")
        return
    planned = {benchmark_name(case.values): case for case in call_counts.cases()}
    others: dict[str, CallCounts] = {}
    if patterns:
        chosen = selected(dict.fromkeys([*known, *planned]), patterns)
        others = {name: one for name, one in known.items() if name not in chosen}
        known = {name: one for name, one in known.items() if name in chosen}
        planned = {name: case for name, case in planned.items() if name in chosen}
    now, failed = _counted(planned)
    if update:
        for name, why in failed.items():
            raise NotMeasuredError(f"case {name} cannot be counted: {why}")
        _write(file, {**others, **now})
        click.echo(f"{file}: {len(now)} cases")
        return
    found = [Difference(name, (f"the call fails: {why}",)) for name, why in failed.items()]
    found += differences({name: known[name] for name in known if name not in failed}, now)
    for one in found[:MOST_SHOWN]:
        click.echo("\n  ".join([one.case, *one.sentences]))
    if len(found) > MOST_SHOWN:
        click.echo(f"and {len(found) - MOST_SHOWN} more cases")
    if found:
        click.echo(
            f"{len(found)} of {len(planned)} cases differ from {file}. If this is intended, run "
            "`make update-baseline`, and commit the file."
        )
        sys.exit(REGRESSION)
    click.echo(f"{len(now)} cases are as in {file}")


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
