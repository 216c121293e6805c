"""The errors of each method and of baselines of the same budget: a table for each scene."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.schema.measurement import Measurement
from reports.baselines import FLOOR, MEAN, RANDOM, ROUNDING, names_of_unbeaten
from reports.metrics import ERROR, show_count, show_error, show_number, show_percent
from reports.rows import finished
from reports.slices import Slice, captured_first, describe

SCENE = ("source", "causal", "dtype", "seq_len", "heads", "head_dim", "keys", "batch", "seed")


@dataclass(frozen=True)
class AccuracyColumn:
    """A column of numbers; the columns of a group share a heading."""

    title: str
    name: str
    group: str
    show: Callable[[float], str] = show_error
    always: bool = False  # shown even if it is empty here, if another table has it

    @property
    def about(self) -> str:
        """The meaning of the column, in a sentence."""
        return Measurement.columns()[self.name].description


_ERROR, _WEIGHTS, _GRADIENTS = "against exact attention", "weights", "error of gradients"
_BUDGET, _ROUNDING = "error of baselines of the same budget", "rounding"
COLUMNS = (
    AccuracyColumn("error", ERROR.column, _ERROR),
    AccuracyColumn("approxi\u00admation", "target_error_rel_l2", _ERROR),
    AccuracyColumn("substi\u00adtution", "substitution_error_rel_l2", _ERROR),
    AccuracyColumn("median row", "approx_error_median_row", _ERROR),
    AccuracyColumn("worst row", "approx_error_worst_row", _ERROR),
    AccuracyColumn("cosine", "approx_cosine", _ERROR, show_number),
    AccuracyColumn("kept mass", "mass_recall", _WEIGHTS, show_percent),
    AccuracyColumn("top-64 recall", "top64_recall", _WEIGHTS, show_percent),
    AccuracyColumn("total variation", "total_variation", _WEIGHTS),
    AccuracyColumn("query", "grad_query_error_rel_l2", _GRADIENTS),
    AccuracyColumn("key", "grad_key_error_rel_l2", _GRADIENTS),
    AccuracyColumn("value", "grad_value_error_rel_l2", _GRADIENTS),
    AccuracyColumn("keys", "baseline_keys", _BUDGET, show_number, always=True),
    AccuracyColumn("mean of V", MEAN, _BUDGET, always=True),
    AccuracyColumn("random keys", RANDOM, _BUDGET, always=True),
    AccuracyColumn("top keys", "top_keys_error_rel_l2", _BUDGET, always=True),
    AccuracyColumn("impl. error", ROUNDING, _ROUNDING),
    AccuracyColumn("floor of dtype", FLOOR, _ROUNDING, always=True),
)

MOST_LINES = 2000  # a line has about a kilobyte


@dataclass(frozen=True)
class Line:
    """A method at one of its settings; `beaten` names the baselines with no larger error."""

    label: str
    is_other: bool
    interval: str
    spread: str
    beaten: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class AccuracyTable:
    """The lines of one scene, the smallest error first; the first table of a slice `is_open`."""

    title: str
    columns: Sequence[AccuracyColumn]
    lines: Sequence[Line]
    is_open: bool

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The headings of groups of columns, and the number of columns of each."""
        names = [column.group for column in self.columns]
        return [(name, names.count(name)) for name in dict.fromkeys(names)]

    @property
    def ranked(self) -> list[Line]:
        """The lines of methods that approximate softmax attention."""
        return [line for line in self.lines if not line.is_other]

    @property
    def others(self) -> list[Line]:
        """The lines of other operators."""
        return [line for line in self.lines if line.is_other]


def tables(parts: Sequence[Slice]) -> list[list[AccuracyTable]]:
    """The tables of each part; a scene is only in the first part that has it.

    Tables of all parts have about `MOST_LINES` lines. A last table without columns says how many
    more there would be.
    """
    if not parts:
        return []
    every = pd.concat([part.rows for part in parts])
    known = {column.name for column in COLUMNS if every[column.name].notna().any()}
    seen: set[int] = set()
    found = []
    room = MOST_LINES
    for part in parts:
        new = part.rows[~part.rows.index.isin(seen)]
        seen.update(part.rows.index)
        found.append(list(_of_part(part, new, known, room)))
        room -= sum(len(table.lines) for table in found[-1])
    return found


def _of_part(
    part: Slice, rows: pd.DataFrame, known: Collection[str], room: int
) -> Iterator[AccuracyTable]:
    done = finished(rows).dropna(subset=[ERROR.column])
    scenes = [(rows, _scene(rows, part)) for _, rows in done.groupby(list(SCENE), sort=True)]
    # Captured inputs come first, since synthetic ones rank methods differently; then the longest.
    scenes.sort(key=lambda it: _place(it[0]))
    for number, (own, title) in enumerate(scenes):
        if room <= 0:
            more = f"{len(scenes) - number} more tables are left out; cases.csv has their numbers."
            yield AccuracyTable(more, (), (), is_open=False)
            return
        # A line joins the rows of both directions: only `forward_backward` has errors of gradients.
        lines = own.sort_values("direction").groupby("label", sort=True).first().reset_index()
        lines = lines.sort_values([ERROR.column, "label"])
        lines = lines.assign(unbeaten=pd.Series(names_of_unbeaten(lines), lines.index))
        columns = [
            column
            for column in COLUMNS
            if lines[column.name].notna().any() or (column.always and column.name in known)
        ]
        room -= len(lines)
        yield AccuracyTable(
            title,
            columns,
            [_line(row, columns) for _, row in lines.iterrows()],
            is_open=number == 0,
        )


def _place(rows: pd.DataFrame) -> tuple[object, ...]:
    made, *which = captured_first(rows)
    return made, -rows["seq_len"].iloc[0], *which


def _scene(rows: pd.DataFrame, part: Slice) -> str:
    first = rows.iloc[0]
    named = ["source", "dtype", "heads", "seq_len"]
    if part.sort == "width":
        named.append("head_dim")
    if part.sort == "decode":
        named.append("direction")
    if part.rows["seed"].nunique() > 1:
        named.append("seed")
    shared = " · query and key share a projection" if first["projections"] == "shared" else ""
    return describe({name: first[name] for name in named}) + shared


def _line(row: pd.Series[Any], columns: Sequence[AccuracyColumn]) -> Line:
    def shown(name: str, show: Callable[[float], str] = show_error) -> str:
        return "" if pd.isna(row[name]) else show(float(row[name]))

    low, high = shown("approx_error_low"), shown("approx_error_high")
    spread, seeds = shown("approx_error_seed_std"), shown("approx_error_seeds", show_count)
    return Line(
        label=row["label"],
        is_other=bool(row["other_operator"]),
        interval=f"{low} to {high}" if low and high else "",
        spread=f"± {spread}" + (f", {seeds} seeds" if seeds else "") if spread else "",
        beaten=row["unbeaten"],
        cells=tuple(shown(column.name, column.show) for column in columns),
    )
