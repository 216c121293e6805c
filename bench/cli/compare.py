"""The command `python -m bench compare`: the time of each case of two runs."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
from rich.table import Table

from bench.schema.case import Case
from bench.schema.entry_point import console
from bench.schema.measurement import Measurement


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

    If the quartiles overlap, the difference may be noise; the row notes this. CompareError if a run
    cannot be read or the runs have no case in common.
    """
    keys = list(Case.columns())
    both = _read(before).merge(_read(after), on=keys, suffixes=("_before", "_after"))
    if both.empty:
        raise CompareError(f"{before} and {after} have no case in common")
    shown = Table(title=f"{len(both)} cases in both runs; ratio below 1 is faster")
    for column in ("case", "before, ms", "after, ms", "ratio", ""):
        shown.add_column(column, justify="left" if column in ("case", "") else "right")
    for row in both.sort_values(keys).to_dict("records"):
        label = "{variant}/{implementation} {hyperparameters} {inputs} {dtype} {direction}"
        label = label.format_map(row)
        label += f" n={row['seq_len']} h={row['heads']}"
        if row["projections"] != "none":
            label += f" {row['projections']} projections"
        if row["launch"] != "eager":
            label += f" in a {row['launch']}"
        if row["status_before"] != "ok" or row["status_after"] != "ok":
            shown.add_row(label, row["status_before"], row["status_after"], "", "")
            continue
        before_ms, after_ms = row["time_ms_median_before"], row["time_ms_median_after"]
        overlap = (
            row["time_ms_q1_before"] <= row["time_ms_q3_after"]
            and row["time_ms_q1_after"] <= row["time_ms_q3_before"]
        )
        note = "quartiles overlap" if overlap else ""
        ratio = f"{after_ms / before_ms:.3f}"
        shown.add_row(label, f"{before_ms:.3f}", f"{after_ms:.3f}", ratio, note)
    return shown


def _read(run: Path) -> pd.DataFrame:
    path = run / "results.csv"
    try:
        rows = pd.read_csv(path, converters={"hyperparameters": str})
    except OSError as error:
        raise CompareError(
            f"cannot read {path}: {error.strerror}; give the folder of a run"
        ) from None
    except ValueError as error:  # raised by pandas for an empty or malformed file
        text = " ".join(str(error).split())
        raise CompareError(f"{path} is not a table of results: {text}") from None
    rows = rows.assign(
        **{name: Measurement.later()[name] for name in set(Measurement.later()) - set(rows.columns)}
    )
    if missing := set(Measurement.columns()) - set(rows.columns):
        raise CompareError(f"{path} lacks the columns {', '.join(sorted(missing))}")
    return rows
