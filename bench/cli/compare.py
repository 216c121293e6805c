"""The command `python -m bench compare`: the time of each case of two runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
from rich.table import Table

from bench.schema.case import Case
from bench.schema.entry_point import console
from bench.schema.environment_file import EnvironmentFile
from bench.schema.machine_kind import (
    hardware_differences,
    installation_differences,
    machine_of,
)
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.schema.run_tables import RunTables
from bench.schema.validation import UserError, name_of, read_json

Key = tuple[Any, ...]
Values = dict[str, Any]


class CompareError(UserError, ValueError):
    """Two runs cannot be compared. The message is one sentence."""


@dataclass(frozen=True)
class StoredRun:
    """The last row of each case of a run, and the description of its machines."""

    rows: Mapping[Key, Values]
    environment: Mapping[str, Any]

    @classmethod
    def read(cls, run: Path) -> Self:
        columns = RunTables.read(run, Measurement).rows
        rows = (
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        )
        return cls(
            {tuple(row[name] for name in Case.columns()): row for row in rows},
            read_json(run / "environment.json", EnvironmentFile),
        )

    def machine(self, case: Key) -> Mapping[str, Any]:
        """The machine that measured a case."""
        return machine_of(self.environment, self.rows[case]["host"])


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Show the ratio of the times of two runs for each case."""
    console().print(table(before, after))


def table(before: Path, after: Path) -> Table:
    """A row for each case that is in both runs, with the ratio of the medians.

    If the quartiles overlap, the difference may be noise; the row notes this. Cases that machines
    of different hardware measured are left out, and the caption says so. It also names differences
    of software and settings, which two runs may have on purpose.

    FileError if a run cannot be read. CompareError if the runs have no case in common, or none that
    the same kind of hardware measured.
    """
    earlier, later = StoredRun.read(before), StoredRun.read(after)
    common = sorted((case for case in earlier.rows if case in later.rows), key=_order)
    if not common:
        raise CompareError(f"{name_of(before)} and {name_of(after)} have no case in common")
    both, other_hardware, installations = [], Counter[str](), dict[str, None]()
    for case in common:
        machines = earlier.machine(case), later.machine(case)
        if found := hardware_differences(*machines):
            other_hardware["; ".join(found)] += 1
        else:
            both.append((earlier.rows[case], later.rows[case]))
            installations |= dict.fromkeys(installation_differences(*machines))
    if not both:
        raise CompareError(
            f"{name_of(before)} and {name_of(after)} were measured on different hardware: "
            f"{' | '.join(other_hardware)}"
        )
    notes = [f"{count} cases left out: {why}" for why, count in other_hardware.items()]
    notes += installations
    shown = Table(
        title=f"{len(both)} cases in both runs; ratio below 1 is faster",
        caption="\n".join(notes) or None,
        caption_justify="left",
    )
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


def _order(case: Key) -> list[tuple[bool, Any]]:
    """Sorts cases by their columns; an empty value comes last."""
    return [(value is None, 0 if value is None else value) for value in case]
