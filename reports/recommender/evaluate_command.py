"""Prints the evaluation of `python -m reports recommend --evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from bench.schema.entry_point import console
from bench.schema.validation import FileError
from reports.recommender.evaluation import evaluate
from reports.recommender.evaluation_tables import goals, records, risk_table, terminal_table
from reports.recommender.run_folders import rows_of

PIPED_WIDTH = 160  # characters, if the output is no terminal


def print_evaluation(folders: Sequence[Path], *, as_object: bool) -> None:
    """Evaluate the recommender on the rows of results folders, and print tables or JSON.

    Raises:
        FileError: the rows have no two lengths, layers, numbers of heads, inputs or machines.
    """
    summaries = evaluate(*rows_of(folders))
    if not summaries:
        raise FileError(
            "an evaluation needs rows at two or more lengths, layers, numbers of heads, inputs or "
            "machines; these runs have one of each"
        )
    if as_object:
        click.echo(json.dumps(records(summaries), indent=2, allow_nan=False))
        return
    screen = console(highlight=False)
    if not screen.is_terminal:
        screen.width = PIPED_WIDTH
    screen.print(terminal_table(summaries))
    screen.print(risk_table(summaries))
    for goal in goals(summaries):
        screen.print(f"{goal.text}: {goal.state}")
