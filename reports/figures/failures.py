"""Marks of cases that did not finish: a cross and a letter in a band above the axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from bench.schema.outcome import Status
from reports.figures.style import Styles
from reports.rows import finished

# Every status but ok has a letter of its own.
LETTERS: Mapping[str, str] = {
    Status.UNSUPPORTED: "U",
    Status.OUT_OF_MEMORY: "M",
    Status.TIMEOUT: "T",
    Status.CRASHED: "C",
    Status.ERROR: "E",
    Status.INCORRECT: "I",
    Status.IMPLAUSIBLE_TIME: "P",
    Status.SKIPPED: "S",
}
STACK = 6  # marks in a column before a second column begins
FONT, LINE, CROSS, LETTER = 7.5, 9.0, 15.0, 5.2  # in points: letters, height of a line, widths
GROUND = "0.94"


@dataclass(frozen=True)
class Mark:
    """The mark of a failed case, or of several if it has no label; offsets are in points."""

    label: str
    status: str
    text: str
    x: float | None
    right: float
    up: float


def stacked(rows: pd.DataFrame, x: str, room: float) -> list[Mark]:
    """Marks above the x value of each failed case; `room` is the free width there, in points.

    If they do not fit, there is one mark for each status, with the number of cases.
    """
    most = STACK * max(1, int(room // CROSS))
    failed = _failed(rows)
    result: list[Mark] = []
    for where in failed[x].unique():
        group = failed[failed[x] == where]
        result += (_singly if len(group) <= most else _counted)(group, float(where))
    return result


def listed(rows: pd.DataFrame, width: float) -> list[Mark]:
    """Marks with names in rows, for figures in which a failed case has no x value.

    A variant is named once if all of its cases ended in the same way.
    """
    failed = _failed(rows)
    alike = failed.groupby(["variant", "status"])["label"].transform("size")
    all_alike = alike == failed["variant"].map(rows["variant"].value_counts())
    failed = failed.assign(name=failed["label"].mask(all_alike, failed["variant"]))
    result = []
    right, level = 3.0, 0
    for _, row in failed.drop_duplicates(["name", "status"]).iterrows():
        text = f"×{LETTERS[row['status']]} {row['name']}"
        if right > 3 and right + len(text) * LETTER > width:
            right, level = 3.0, level + 1
        result.append(Mark(row["label"], row["status"], text, None, right, 1 + level * LINE))
        right += len(text) * LETTER + 8
    return result


def band_height(placed: list[Mark]) -> float:
    """The height of the band that holds the marks, in points; 0 without any."""
    return max((mark.up + LINE + 2 for mark in placed), default=0.0)


def draw_marks(ax: Axes, placed: list[Mark], styles: Styles, height: float) -> None:
    """Draw the band and the marks; `height` is the height of the axes, in points."""
    if not placed:
        return
    band = band_height(placed) / height
    ground = Rectangle((0, 1), 1, band, transform=ax.transAxes, color=GROUND, linewidth=0)
    ground.set_clip_on(False)
    ax.add_artist(ground)
    above_x = blended_transform_factory(ax.transData, ax.transAxes)
    for mark in placed:
        ax.annotate(
            mark.text,
            (0 if mark.x is None else mark.x, 1),
            xycoords=ax.transAxes if mark.x is None else above_x,
            xytext=(mark.right, mark.up),
            textcoords="offset points",
            ha="left" if mark.x is None else "center",
            va="bottom",
            fontsize=FONT,
            fontweight="bold",
            color=styles[mark.label].color if mark.label else "0.25",
            annotation_clip=False,
            gid=f"failed:{mark.status}:{mark.label}",
        )


def _failed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(finished(rows).index).sort_values(["status", "label"])


def _pairs(failed: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return zip(failed["label"], failed["status"], strict=True)


def _singly(failed: pd.DataFrame, where: float) -> Iterator[Mark]:
    columns = -(-len(failed) // STACK)
    for number, (label, status) in enumerate(_pairs(failed)):
        column, level = divmod(number, STACK)
        right = (column - (columns - 1) / 2) * CROSS
        yield Mark(label, status, f"×{LETTERS[status]}", where, right, 1 + level * LINE)


def _counted(failed: pd.DataFrame, where: float) -> Iterator[Mark]:
    for level, (status, count) in enumerate(failed.groupby("status").size().items()):
        yield Mark("", str(status), f"{count}×{LETTERS[str(status)]}", where, 0, 1 + level * LINE)
