"""The costs of more heads at equal total width, relative to the fewest heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.metrics import ERROR, MEMORY, TIME, show_ratio
from reports.rows import OK
from reports.slices import Slice, describe, panels


@dataclass(frozen=True)
class HeadCountCell:
    """A method at one number of heads: its time, its memory or status, and its error."""

    time: str
    lines: tuple[str, ...]
    error: str
    is_wrong: bool


@dataclass(frozen=True)
class Comparison:
    """A table of methods by number of heads; a row starts with the label of the method."""

    title: str
    heads: Sequence[int]
    rows: Sequence[tuple[str, Sequence[HeadCountCell]]]


def comparisons(part: Slice) -> Iterator[Comparison]:
    """The tables of a slice of one width: one for each direction, source and kind of projections.

    They contain the methods that finished with at least one number of heads.
    """
    for panel in panels(part.rows, x="heads", row="passage", column="call"):
        heads = sorted(panel.rows["heads"].unique())
        rows = []
        for label, own in panel.rows.sort_values("heads").groupby("label", sort=True):
            by_heads = {int(row["heads"]): row for _, row in own.iterrows()}
            finished = [row for row in by_heads.values() if row["status"] == OK]
            if finished:
                cells = [_cell(by_heads.get(count), finished[0]) for count in heads]
                rows.append((str(label), cells))
        yield Comparison(describe({"call": panel.column, **panel.fixed}), heads, rows)


def _cell(row: pd.Series[Any] | None, base: pd.Series[Any]) -> HeadCountCell:
    """The numbers of a row; for rows other than `base`, as multiples of those of `base`."""
    if row is None:
        return HeadCountCell("", (), "", False)
    if row["status"] != OK:
        return HeadCountCell("", (str(row["status"]).replace("_", " "),), "", False)
    time, memory = (
        metric.show(float(row[metric.column]))
        if row is base
        else show_ratio(float(row[metric.column]) / float(base[metric.column]))
        for metric in (TIME, MEMORY)
    )
    error = row[ERROR.column]
    return HeadCountCell(
        time,
        (f"memory {memory}",),
        "" if pd.isna(error) else ERROR.show(float(error)),
        bool(pd.notna(error) and error >= ERROR.useless),
    )
