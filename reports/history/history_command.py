"""The command `python -m reports history`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.schema.entry_point import Summarized, console
from bench.schema.validation import FileError, is_file, name_of

STORED = Path("results/track")
ROWS = 20


@click.command(cls=Summarized)
@click.argument("folder", type=click.Path(path_type=Path), default=STORED)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the page and the tables; `history` in FOLDER by default.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=ROWS,
    show_default=True,
    help="The most rows of the table in the terminal.",
)
def history(folder: Path, out: Path | None, rows: int) -> None:
    """Draw the runs that `make track` stored over commits, and list what moved last.

    FOLDER holds the stored files, results/track by default. The command writes history.html,
    steps.csv (a row for each step) and history.csv (a row for each number of each run). Each kind
    of machine has its own series. A file that cannot be used is left out and named.
    """
    from reports.history.history_page import write_history
    from reports.history.metric_series import histories
    from reports.history.moved_table import moves, terminal_table, unsearched
    from reports.history.step_search import check_library
    from reports.history.stored_files import read_history

    check_library()
    target = out or folder / "history"
    if is_file(target):
        raise FileError(f"expected a folder for the history, got the file {name_of(target)}")
    stored = read_history(folder)
    machines = histories(stored.runs)
    found = moves(machines)
    page = write_history(machines, found, stored.skipped, target)
    screen = console()
    if not screen.is_terminal:
        screen.width = 140
    for sentence in stored.skipped:
        click.echo(f"left out: {sentence}", err=True)
    for machine in machines:
        screen.print(
            f"{machine.fingerprint}: {machine.name}; {len(machine.commits)} commits, "
            f"{len(machine.series)} series",
            highlight=False,
        )
    said = [*(["No step was found."] * (not found)), unsearched(machines)]
    if sentence := " ".join(filter(None, said)):
        screen.print(sentence, highlight=False)
    if found and rows:
        screen.print(terminal_table(found, rows))
    click.echo(page)
