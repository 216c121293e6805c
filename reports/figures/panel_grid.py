"""Arranges the panels of a figure: grid, titles, shared scales, legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.curves import name_of
from reports.figures import axes, failures, frame, legend, levels, ranking
from reports.figures.frontier import draw_frontier
from reports.figures.kinds import Kind
from reports.figures.plain_text import plain_text
from reports.figures.style import Styles
from reports.metrics import ERROR, Metric
from reports.slices import Fixed, Panel

PANEL_WIDTHS = {1: 5.4, 2: 3.3, 3: 2.6}  # inches, by the number of columns
PANEL_HEIGHT = 2.6
NAMED = 1.35, 1.8  # factors of width and height for panels with names beside curves
TITLE_LINE = 12  # points
ACROSS, DOWN = 0.22, 0.4  # inches between panels; titles and bands are added to `DOWN`


@dataclass(frozen=True)
class Placed:
    """A panel with its row and column in the grid, and its content."""

    i: int
    j: int
    title: str
    points: pd.DataFrame
    marks: list[failures.Mark]

    @property
    def head(self) -> float:
        """The height above its axes in points, without the first line of the title."""
        return failures.band_height(self.marks) + TITLE_LINE * self.title.count("\n")


@plain_text()
def draw(kind: Kind, drawn: Sequence[Panel], shared: Fixed, styles: Styles) -> Figure:
    """Draw a figure. `shared` has the values of all panels; titles of panels show the others."""
    if kind.is_ranking(drawn):
        return ranking.draw(kind, drawn, shared)
    columns = len({panel.column for panel in drawn})
    wider, higher = NAMED if isinstance(kind.x, Metric) else (1.0, 1.0)
    width, height = wider * PANEL_WIDTHS.get(columns, 2.3), higher * PANEL_HEIGHT
    placed = _placed(kind, drawn, shared, width)
    rows = max(panel.i for panel in placed) + 1
    head = max(panel.head for panel in placed)
    figure, grid = frame.grid(
        rows, columns, panel=(width, height), between=(ACROSS, DOWN + head / 72)
    )
    points = pd.concat([panel.points for panel in placed])
    _scale(grid[0][0], kind, pd.concat([panel.rows for panel in drawn]), points)
    taken = {(panel.i, panel.j) for panel in placed}
    for panel in placed:
        ax = grid[panel.i][panel.j]
        ax.set_visible(True)
        is_lowest = (panel.i + 1, panel.j) not in taken
        is_first = (panel.i, panel.j - 1) not in taken
        is_last = (panel.i, panel.j + 1) not in taken
        _fill(ax, kind, panel.points, styles, is_last=is_last)
        failures.draw_marks(ax, panel.marks, styles, height * 72)
        bands = [failures.band_height(other.marks) for other in placed if other.i == panel.i]
        ax.set_title(panel.title, loc="left", fontsize=10, pad=4 + max(bands))
        ax.set_xlabel(kind.x_label if is_lowest else "")
        ax.set_ylabel(kind.y.label if is_first else "")
        ax.tick_params(labelbottom=is_lowest, labelleft=is_first)
    frame.title(figure, kind, shared, grid[0][0], max(p.head for p in placed if p.i == 0))
    marks = [mark for panel in placed for mark in panel.marks]
    every = pd.concat([panel.rows for panel in drawn])
    if isinstance(kind.x, str):
        in_order = legend.by_ends(set(every["label"]), [panel.points for panel in placed], kind.y)
        names = dict(zip(in_order, in_order, strict=True))
    else:
        names = {str(curve): name_of(own) for curve, own in every.groupby("curve")}
    entries = [
        *levels.handles(points, "seq_len", kind.y),
        *legend.entries(names, marks, styles, line=isinstance(kind.x, str)),
    ]
    # The name of the line at 1.0 is between the last panel and the legend.
    legend.draw(figure, grid[0][-1], entries, gap=0.87 if kind.y is ERROR else 0.12)
    return figure


def _placed(kind: Kind, drawn: Sequence[Panel], shared: Fixed, width: float) -> list[Placed]:
    # Captured inputs are at the top; the most frequent value of `column` is on the left.
    made = {
        panel.row: "layer" in panel.rows and bool(panel.rows["layer"].isna().all())
        for panel in drawn
    }
    rows = sorted(made, key=lambda row: (made[row], row))
    counts = Counter(panel.column for panel in drawn)
    columns = sorted(counts, key=lambda column: (-counts[column], column))
    if isinstance(kind.x, Metric):
        marks = [failures.listed(panel.rows, width * 72) for panel in drawn]
    else:
        values = [value for panel in drawn for value in panel.rows[kind.x]]
        room = axes.room(values, width * 72)
        marks = [failures.stacked(panel.rows, kind.x, room) for panel in drawn]
    return [
        Placed(
            i=rows.index(panel.row),
            j=columns.index(panel.column),
            title=frame.panel_title(kind, panel, shared, width),
            points=axes.points(panel.rows, kind.x_column, kind.y),
            marks=own,
        )
        for panel, own in zip(drawn, marks, strict=True)
    ]


def _scale(ax: Axes, kind: Kind, rows: pd.DataFrame, points: pd.DataFrame) -> None:
    if isinstance(kind.x, Metric):
        xs = points[kind.x.column]
        axes.scale_metric(ax, "x", kind.x, xs.min(), xs.max(), names=True)
    else:
        axes.scale_counts(ax, rows[kind.x].tolist())
    axes.scale_metric(ax, "y", kind.y, *axes.reach(points, kind.y))


def _fill(ax: Axes, kind: Kind, points: pd.DataFrame, styles: Styles, *, is_last: bool) -> None:
    if kind.y is ERROR:
        axes.draw_zeros_line(ax, named=is_last)
    if points.empty:
        ax.text(0.5, 0.5, "nothing finished", transform=ax.transAxes, ha="center", color="0.4")
    elif isinstance(kind.x, Metric):
        levels.draw_across(ax, points, "seq_len", kind.y)
        draw_frontier(ax, points, kind.x, kind.y, styles)
    else:
        levels.draw_lines(ax, points, kind.x, kind.y)
        axes.draw_lines(ax, points, kind.x, kind.y, styles)
