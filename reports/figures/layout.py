"""How the panels of a figure stand together: grid, titles, shared scales, legend."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures import axes, failures, legend
from reports.figures.frontier import draw_frontier
from reports.figures.kinds import Kind
from reports.figures.style import Styles
from reports.metrics import ERROR, Metric
from reports.slices import Fixed, Panel, describe

PANEL_WIDTHS = {1: 5.4, 2: 3.3, 3: 2.6}  # inches, by the number of columns
PANEL_HEIGHT = 2.6
TITLE_LINE = 12  # points
LETTERS_PER_INCH = 13  # of a panel's title
ACROSS, DOWN = 0.22, 0.4  # inches between panels; a title and a band come on top of `DOWN`
X_LABELS = {"seq_len": "sequence length", "heads": "query heads"}


@dataclass(frozen=True)
class Placed:
    """A panel at its place in the grid, with all that is drawn in it."""

    i: int
    j: int
    title: str
    points: pd.DataFrame
    marks: list[failures.Mark]

    @property
    def head(self) -> float:
        """What stands above its axes, in points, but for the first line of the title."""
        return failures.band_height(self.marks) + TITLE_LINE * self.title.count("\n")


def draw(kind: Kind, drawn: Sequence[Panel], shared: Fixed, styles: Styles) -> Figure:
    """One figure. `shared` is what its panels agree in; the rest of it stands in their titles."""
    columns = len({panel.column for panel in drawn})
    width = PANEL_WIDTHS.get(columns, 2.3)
    placed = _placed(kind, drawn, shared, width)
    rows = max(panel.i for panel in placed) + 1
    head = max(panel.head for panel in placed)
    with sns.axes_style("whitegrid", {"grid.color": "0.9"}):
        figure, grid = _grid(rows, columns, width, head / 72)
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
        failures.draw_marks(ax, panel.marks, styles, PANEL_HEIGHT * 72)
        bands = [failures.band_height(other.marks) for other in placed if other.i == panel.i]
        ax.set_title(panel.title, loc="left", fontsize=10, pad=4 + max(bands))
        ax.set_xlabel(_axis_label(kind.x) if is_lowest else "")
        ax.set_ylabel(_axis_label(kind.y) if is_first else "")
        ax.tick_params(labelbottom=is_lowest, labelleft=is_first)
    _title(figure, kind, shared, grid[0][0], max(p.head for p in placed if p.i == 0))
    labels = {label for panel in drawn for label in panel.rows["label"]}
    marks = [mark for panel in placed for mark in panel.marks]
    in_order = legend.by_ends(labels, [panel.points for panel in placed], kind.y)
    entries = legend.entries(in_order, marks, styles, line=not isinstance(kind.x, Metric))
    # The name of the line at 1.0 stands between the last panel and the legend.
    legend.draw(figure, grid[0][-1], entries, gap=0.87 if kind.y is ERROR else 0.12)
    return figure


def _placed(kind: Kind, drawn: Sequence[Panel], shared: Fixed, width: float) -> list[Placed]:
    rows = sorted({panel.row for panel in drawn})
    columns = sorted({panel.column for panel in drawn})
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
            title=textwrap.fill(_panel_title(kind, panel, shared), int(width * LETTERS_PER_INCH)),
            points=axes.points(panel.rows, kind.x_column, kind.y),
            marks=own,
        )
        for panel, own in zip(drawn, marks, strict=True)
    ]


def _grid(rows: int, columns: int, width: float, head: float) -> tuple[Figure, list[list[Axes]]]:
    """Hidden axes of a fixed size in inches, all on the same scales."""
    down = DOWN + head
    size = (columns * (width + ACROSS), rows * (PANEL_HEIGHT + down))
    figure = Figure(figsize=size)
    grid = figure.subplots(
        rows,
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        gridspec_kw={
            "left": 0,
            "bottom": 0,
            "right": 1 - ACROSS / size[0],
            "top": 1 - down / size[1],
            "wspace": ACROSS / width,
            "hspace": down / PANEL_HEIGHT,
        },
    )
    for ax in grid.flat:
        ax.set_visible(False)
        sns.despine(ax=ax, left=True)
    return figure, [list(line) for line in grid]


def _scale(ax: Axes, kind: Kind, rows: pd.DataFrame, points: pd.DataFrame) -> None:
    if isinstance(kind.x, Metric):
        xs = points[kind.x.column]
        axes.scale_metric(ax, "x", kind.x, xs.min(), xs.max())
    else:
        axes.scale_counts(ax, rows[kind.x].tolist())
    ys = points[[column for column in (kind.y.column, kind.y.low, kind.y.high) if column]]
    axes.scale_metric(ax, "y", kind.y, ys.min().min(), ys.max().max())


def _fill(ax: Axes, kind: Kind, points: pd.DataFrame, styles: Styles, *, is_last: bool) -> None:
    if kind.y is ERROR:
        axes.draw_zeros_line(ax, named=is_last)
    if points.empty:
        ax.text(0.5, 0.5, "nothing finished", transform=ax.transAxes, ha="center", color="0.4")
    elif isinstance(kind.x, Metric):
        draw_frontier(ax, points, kind.x, kind.y, styles)
    else:
        axes.draw_lines(ax, points, kind.x, kind.y, styles)


def _panel_title(kind: Kind, panel: Panel, shared: Fixed) -> str:
    own = {kind.column: panel.column, kind.row: panel.row, **panel.fixed}
    return describe({name: value for name, value in own.items() if name not in shared})


def _axis_label(axis: str | Metric) -> str:
    return axis.label if isinstance(axis, Metric) else X_LABELS[axis]


def _title(figure: Figure, kind: Kind, shared: Fixed, ax: Axes, head: float) -> None:
    width = figure.get_size_inches()[0] + 2.2  # the legend stands beside the grid
    lines = textwrap.wrap(describe(shared), int(width * 14))
    over = partial(
        ax.annotate,
        xy=(0, 1),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        annotation_clip=False,
    )
    foot = head + 24
    over("\n".join(lines), xytext=(0, foot), fontsize=9, color="0.35")
    over(kind.title, xytext=(0, foot + 12 * len(lines) + 4), fontsize=13, fontweight="bold")
