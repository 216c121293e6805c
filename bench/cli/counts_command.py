"""The command `python -m bench counts`."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import click
import torch

from bench.counts import call_counts, counts_file
from bench.counts.call_counts import CallCounts
from bench.counts.counts_file import OtherVersionsError
from bench.counts.differences import differences
from bench.schema.case_names import benchmark_name
from bench.workloads.attention.given_inputs import Given

FILE = Path("tests") / "counts.toml"
MOST_SHOWN = 40  # cases


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=FILE)
@click.option("--update", is_flag=True, help="Write the file anew.")
@click.option(
    "--if-comparable",
    is_flag=True,
    help="Exit with 0 if the file is of other versions or another kind of CPU, and say so.",
)
def counts(file: Path, update: bool, if_comparable: bool) -> None:
    """Compare bytes, operations and errors of all variants with a file; no time is measured.

    FILE is tests/counts.toml unless given. The numbers do not depend on the load of the machine. A
    difference names the case, the number before and now, and the operations that changed. The exit
    status is 0 without a difference, 1 with one, and 2 if the file cannot be compared.
    """
    try:
        known = {} if update else counts_file.read(file).case
    except OtherVersionsError as error:
        if not if_comparable:
            raise
        click.echo(f"NOT COMPARED: {error}")
        return
    now = _counted()
    if update:
        counts_file.write(file, now)
        click.echo(f"{file}: {len(now)} cases")
        return
    found = differences(known, now)
    for one in found[:MOST_SHOWN]:
        click.echo("\n  ".join([one.case, *one.sentences]))
    if len(found) > MOST_SHOWN:
        click.echo(f"and {len(found) - MOST_SHOWN} more cases")
    if found:
        click.echo(
            f"{len(found)} of {len(now)} cases differ from {file}. If this is intended, run "
            "`make update-counts`, and commit the file."
        )
        sys.exit(1)
    click.echo(f"{len(now)} cases are as in {file}")


def _counted() -> dict[str, CallCounts]:
    """The counts of all cases."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the number of threads decides the size of some buffers
    gc.collect()
    gc.freeze()  # the collections of a measurement of memory skip the imported modules
    given: dict[object, Given] = {}
    planned = call_counts.cases()
    found = {}
    try:
        with click.progressbar(planned, label="counting", file=sys.stderr) as bar:
            for case in bar:
                if case.shape not in given:
                    given = {case.shape: Given.load(case, {})}
                found[benchmark_name(case.values)] = call_counts.count(case, given[case.shape])
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
    return found
