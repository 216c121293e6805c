"""The error of a few methods on each single head, against the effective keys of the head."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.declared import exact_variant
from reports.figures import axes, frame, legend
from reports.figures.kinds import Kind
from reports.figures.plain_text import plain_text
from reports.figures.style import Styles
from reports.metrics import EFFECTIVE_KEYS, ERROR
from reports.rows import finished
from reports.slices import Fixed, Panel, Slice, common, panels

MOST = 6  # methods in a panel, so that their points can be told apart
WIDTH, HEIGHT = 4.2, 2.8  # of a panel, in inches
ACROSS, DOWN = 0.3, 0.75
HEADS = ("approx_error_rel_l2", "approx_error_low", "approx_error_high", "effective_keys")
KIND = Kind(
    name="error_by_head",
    title="Error of each head against its effective keys",
    x=EFFECTIVE_KEYS,
    # The floor and the error of the mean of all values are not known for single heads.
    y=replace(ERROR, floor=None, trivial=None),
    row="source",
    column="dtype",
    reading="A point for each head and method, with its 95 % interval. The figure shows the "
    f"{MOST} methods with the smallest error, each at its best setting. Heads differ: a method "
    "that is accurate on a head with few effective keys may fail on one with many.",
)


def rows_of(part: Slice, per_head: pd.DataFrame) -> pd.DataFrame:
    """The rows of a slice, once for each head, with the numbers of the head; may be empty."""
    cases = finished(part.rows).drop(columns=list(HEADS))
    return per_head[["case", *HEADS]].join(cases, on="case", how="inner").reset_index(drop=True)


def drawn(part: Slice, per_head: pd.DataFrame) -> list[Panel]:
    """A panel for each source and dtype with several known heads, at the longest length."""
    rows = rows_of(part, per_head)
    if part.sort != KIND.sort or rows.empty:
        return []
    found = []
    for panel in panels(rows, x="seq_len", row=KIND.row, column=KIND.column):
        seq_len = int(panel.rows["seq_len"].max())
        shown = _few(panel.rows[panel.rows["seq_len"] == seq_len])
        if shown[EFFECTIVE_KEYS.column].nunique() > 1:
            found.append(replace(panel, fixed={**panel.fixed, "seq_len": seq_len}, rows=shown))
    return found


def _few(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the methods with the smallest error, each at its best setting."""
    able = rows[~rows["other_operator"] & (rows["variant"] != exact_variant())]
    errors = able.groupby(["variant", "label"])[ERROR.column].median().sort_values()
    best = errors.reset_index().drop_duplicates("variant")["label"].head(MOST)
    return able[able["label"].isin(best)]


@plain_text()
def draw(found: list[Panel], part: Slice, styles: Styles) -> tuple[Figure, Fixed]:
    """Draw a figure; return it and the values that its panels share."""
    shared = {
        **part.fixed,
        **common([{KIND.column: p.column, KIND.row: p.row, **p.fixed} for p in found]),
    }
    columns = min(2, len(found))
    figure, grid = frame.grid(
        -(-len(found) // columns), columns, panel=(WIDTH, HEIGHT), between=(ACROSS, DOWN)
    )
    placed = [axes.points(panel.rows, EFFECTIVE_KEYS.column, KIND.y) for panel in found]
    every = pd.concat(placed)
    corner = grid[0][0]
    low, high = axes.reach(every, EFFECTIVE_KEYS)
    axes.scale_metric(corner, "x", EFFECTIVE_KEYS, low, high)
    axes.scale_metric(corner, "y", KIND.y, *axes.reach(every, KIND.y))
    for number, (panel, points) in enumerate(zip(found, placed, strict=True)):
        i, j = divmod(number, columns)
        ax = grid[i][j]
        ax.set_visible(True)
        ax.set_title(frame.panel_title(KIND, panel, shared, WIDTH), loc="left", fontsize=10)
        ax.set_xlabel(KIND.x_label)
        ax.set_ylabel(KIND.y.label if j == 0 else "")
        ax.tick_params(labelbottom=True, labelleft=j == 0)
        axes.draw_zeros_line(ax, named=j == columns - 1 or number == len(found) - 1)
        _draw_points(ax, points, styles)
    frame.title(figure, KIND, shared, corner, 0)
    names = {label: label for label in sorted(set(every["label"]))}
    entries = legend.entries(names, [], styles, line=False)
    legend.draw(figure, grid[0][columns - 1], entries, gap=0.87)
    return figure, shared


def _draw_points(ax: Axes, points: pd.DataFrame, styles: Styles) -> None:
    for label, own in points.groupby("label"):
        look = styles[str(label)]
        at, y = own[EFFECTIVE_KEYS.column], KIND.y
        ax.vlines(at, own[y.low], own[y.high], color=look.color, linewidth=0.8, alpha=0.7)
        ax.plot(
            at,
            own[y.column],
            linestyle="",
            marker=look.marker,
            color=look.color,
            markeredgecolor="white",
            markersize=6.5,
            label=str(label),
        )
