"""The command `python -m bench selfcheck`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.cli.options import DEVICES, chosen_device
from bench.loop.result_files import write_json
from bench.selfcheck.processes import PROCESSES, selfcheck
from bench.selfcheck.same_code import Selfcheck

FILE = "selfcheck.json"


@click.command(name="selfcheck")
@click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: CUDA if present.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help=f"Sampling time; starting {PROCESSES} processes and long calls take more.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"Folder for {FILE}; the folder of a run, to show it in its report.",
)
def selfcheck_command(device: str, seconds: float, out: Path | None) -> None:
    """Time the same code against itself; say which difference this machine can resolve now.

    Exact attention and a few variants are timed at three lengths. Two measurements of the
    same code differ by less than the stated resolution in 95 % of comparisons. Smaller differences
    of two rows mean nothing.
    """
    device = chosen_device(device)
    if out is not None and (out / FILE).exists():
        raise click.UsageError(f"--out: {out} holds {FILE} already; give another folder")
    with tempfile.TemporaryDirectory(prefix="selfcheck-") as name:
        try:
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
            log = (Path(name) if out is None else out) / "selfcheck.log"
            found = selfcheck(device, seconds, log, _show_progress)
            if out is not None:
                write_json(out / FILE, found.values)
        except OSError as error:
            raise click.UsageError(f"--out: cannot write to {out}: {error.strerror}") from error
    console = Console()
    console.print(_table(found))
    for sentence in sentences(found):
        console.print(sentence, highlight=False, markup=False)


def sentences(found: Selfcheck) -> list[str]:
    """The result in words."""
    said = []
    if found.resolution is not None:
        said.append(
            f"Two measurements next to each other in one process resolve a difference of "
            f"{found.resolution:.1%} ({found.comparisons} comparisons)."
        )
    if found.resolution_between_processes is not None:
        said.append(
            f"Measurements in different processes resolve {found.resolution_between_processes:.1%} "
            f"({found.processes} processes)."
        )
    said.append(
        f"Disturbed: {found.disturbed}." if found.disturbed else "Nothing disturbed the times."
    )
    return said


def _table(found: Selfcheck) -> Table:
    table = Table(title=f"the same code against itself on {found.device}")
    table.add_column("case")
    for title in ("median, ms", "comparisons", "resolution"):
        table.add_column(title, justify="right")
    for case in found.cases:
        share = "" if case.resolution is None else f"{case.resolution:.1%}"
        table.add_row(case.case, f"{case.median_ms:.3f}", str(case.comparisons), share)
    return table


def _show_progress(finished: int) -> None:
    click.echo(f"{finished} of {PROCESSES} processes finished", err=True)
