"""The command `python -m bench compare`: the time of each case of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bench.schema.case import Case
from bench.schema.csv_columns import read_csv
from bench.schema.entry_point import console
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.schema.validation import name_of

Key = tuple[Any, ...]
Values = dict[str, Any]


class CompareError(ValueError):
    """Two runs cannot be compared. The message is one sentence."""


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Show the ratio of the times of two runs for each case."""
    console().print(table(before, after))


def table(before: Path, after: Path) -> Table:
    """A row for each case that is in both runs, with the ratio of the medians.

    If the quartiles overlap, the difference may be noise; the row notes this. FileError if a run
    cannot be read, CompareError if the runs have no case in common.
    """
    earlier, later = _read(before), _read(after)
    both = [
        (row, later[case]) for case, row in sorted(earlier.items(), key=_order) if case in later
    ]
    if not both:
        raise CompareError(f"{name_of(before)} and {name_of(after)} have no case in common")
    shown = Table(title=f"{len(both)} cases in both runs; ratio below 1 is faster")
    for column in ("case", "before, ms", "after, ms", "ratio", ""):
        shown.add_column(column, justify="left" if column in ("case", "") else "right")
    for row, other in both:
        label = "{variant}/{implementation} {hyperparameters} {inputs} {dtype} {direction}"
        label = label.format_map(row)
        label += f" n={row['seq_len']} h={row['heads']}"
        if row["projections"] != "none":
            label += f" {row['projections']} projections"
        if row["launch"] != "eager":
            label += f" in a {row['launch']}"
        shown.add_row(label, *_cells(row, other))
    return shown


def _cells(before: Values, after: Values) -> tuple[str, ...]:
    times = before["time_ms_median"], after["time_ms_median"]
    statuses = before["status"], after["status"]
    if None in times or set(statuses) != {Status.OK}:
        return *map(str, statuses), "", ""
    quartiles = [row[f"time_ms_{name}"] for name in ("q1", "q3") for row in (before, after)]
    overlap = False
    if None not in quartiles:
        first_before, first_after, third_before, third_after = quartiles
        overlap = first_before <= third_after and first_after <= third_before
    note = "quartiles overlap" if overlap else ""
    return f"{times[0]:.3f}", f"{times[1]:.3f}", f"{times[1] / times[0]:.3f}", note


def _read(run: Path) -> dict[Key, Values]:
    """The last row of each case."""
    columns = read_csv(run / "results.csv", Measurement.columns())
    rows = (
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    )
    return {tuple(row[name] for name in Case.columns()): row for row in rows}


def _order(item: tuple[Key, Values]) -> list[tuple[bool, Any]]:
    """Sorts cases by their columns; an empty value comes last."""
    return [(value is None, 0 if value is None else value) for value in item[0]]
