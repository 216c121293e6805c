"""Error against time: the points that no other point beats, and one band for useless methods."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import textalloc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from reports.curves import name_of
from reports.figures import axes, frame
from reports.figures.plain_text import plain_text
from reports.figures.style import Styles
from reports.metrics import Metric
from reports.pareto import frontier, rounding

SIZE = frame.PanelSize(2.75, 2.35, 0.3, 0.5)
SMALLEST, LARGEST = 9, 30  # marks, in square points
BAND = "0.93"
PADDING = 4  # points between the edges of the band and its words
READING = (
    "Grey line: the methods that no other method beats in both; their names are bold. Bars: "
    "intervals."
)
SETTINGS = "Thin line: the settings of a method in the order of its knob."
HOLLOW = "Hollow: another implementation than the default."


@dataclass(frozen=True)
class FrontierPanel:
    """The points of one panel; methods with an `excluded` are only named, in a band from `edge`.

    `points` have the columns of the metrics, and `curve`, `place`, `label`, `variant`, `excluded`
    and `is_exact`.
    """

    title: str
    points: pd.DataFrame
    edge: float
    useless: Sequence[str]

    def useful(self, x: Metric, y: Metric) -> pd.DataFrame:
        """The points that are drawn."""
        return self.points[self.points["excluded"] == ""].dropna(subset=[x.column, y.column])


@plain_text()
def draw(
    title: str,
    conditions: str,
    panels: Sequence[FrontierPanel],
    x: Metric,
    y: Metric,
    styles: Styles,
    notes: Sequence[str],
) -> Figure:
    """Draw a figure with three panels side by side; their y axes have one scale."""
    columns = min(frame.COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    words = [_band_words(panel) for panel in panels]
    band = max(len(lines) for lines in words) * frame.LINE * frame.SMALL + 2 * PADDING
    tall = max(len(frame.wrapped(panel.title, SIZE.width, frame.TEXT)) for panel in panels)
    size = frame.PanelSize(
        SIZE.width, SIZE.height + band / 72, SIZE.across, SIZE.down + 0.15 * max(0, tall - 1)
    )
    figure, grid = frame.grid(rows, columns, size, sharex="none", sharey="all")
    every = pd.concat([panel.useful(x, y) for panel in panels])
    approximate = every[~every["is_exact"]]
    lows = approximate[y.low or y.column].fillna(approximate[y.column])
    linear = axes.linear_below(lows)
    edge = max(panel.edge for panel in panels)
    lowest = float(every[y.low or y.column].min()) if len(every) else 0.0
    axes.scale_errors(grid[0][0], y, linear, lowest, edge, band / (72 * size.height))
    titles = 1
    for number, panel in enumerate(panels):
        i, j = divmod(number, columns)
        ax = grid[i][j]
        ax.set_visible(True)
        lines = frame.panel_title(ax, panel.title, size)
        titles = max(titles, lines) if i == 0 else titles
        ax.tick_params(labelleft=j == 0)
        if j == 0:
            ax.set_ylabel(y.label, fontsize=frame.TEXT)
        if number + columns >= len(panels):
            ax.set_xlabel(x.label, fontsize=frame.TEXT)
        _draw_panel(ax, panel, x, y, styles)
        _draw_band(ax, panel.edge, words[number])
    # Names are placed when all scales are final. The library draws the figure for each panel, so
    # the other panels are hidden, which is much faster.
    shown = [grid[number // columns][number % columns] for number in range(len(panels))]
    for ax, panel in zip(shown, panels, strict=True):
        for other in shown:
            other.set_visible(other is ax)
        _name(ax, panel, x, y)
    for ax in shown:
        ax.set_visible(True)
    frame.heading(figure, title, conditions, lines=titles)
    curves = {
        str(curve): name_of(own)
        for curve, own in every.sort_values(["is_exact", "curve"]).groupby("curve", sort=False)
    }
    has_lines = any(panel.useful(x, y).duplicated("curve").any() for panel in panels)
    has_hollow = any(styles[curve].is_hollow for curve in curves)
    reading = " ".join([READING, *[SETTINGS] * has_lines, *[HOLLOW] * has_hollow])
    frame.foot(figure, frame.entries(curves, styles, line=False), [reading, *notes])
    return figure


def best_of(points: pd.DataFrame, x: Metric, y: Metric) -> pd.DataFrame:
    """The points on the frontier, the fastest first."""
    useful = points[points["excluded"] == ""]
    return frontier(useful, x, y, floor=rounding(useful, y))


def _draw_panel(ax: Axes, panel: FrontierPanel, x: Metric, y: Metric, styles: Styles) -> None:
    useful = panel.useful(x, y)
    if useful.empty:
        ax.text(0.5, 0.4, "no useful method", transform=ax.transAxes, ha="center", color="0.35")
        ax.set_xticks([])
        return
    axes.scale_log(ax, "x", x, useful[x.low or x.column].min(), useful[x.high or x.column].max())
    best = best_of(panel.points, x, y)
    ax.plot(best[x.column], best[y.column], color="0.78", linewidth=3, zorder=1, gid="frontier")
    for curve, own in useful.sort_values("place").groupby("curve"):
        style = styles[str(curve)]
        at = own[x.column], own[y.column]
        ax.plot(*at, color=style.color, linewidth=0.9, alpha=0.8, zorder=2, gid=f"curve:{curve}")
        ax.scatter(
            *at,
            s=np.linspace(SMALLEST, LARGEST, len(own)) if len(own) > 1 else LARGEST,
            color=style.face,
            marker=style.marker,
            edgecolors=style.edge,
            linewidths=1.0 if style.is_hollow else 0.4,
            zorder=3,
        )
        bars: dict[str, Any] = {"color": style.color, "linewidth": 0.8, "alpha": 0.6, "zorder": 1.8}
        if x.low and x.high:
            ax.hlines(own[y.column], own[x.low], own[x.high], **bars)
        if y.low and y.high:
            ax.vlines(own[x.column], own[y.low], own[y.high], **bars)


def _band_words(panel: FrontierPanel) -> list[str]:
    wide = SIZE.width - 2 * PADDING / 72
    return [line for it in panel.useless if it for line in frame.wrapped(it, wide, frame.SMALL)]


def _draw_band(ax: Axes, edge: float, lines: Sequence[str]) -> None:
    ax.axhspan(edge, ax.get_ylim()[1], color=BAND, linewidth=0, zorder=0.5, gid="useless")
    ax.annotate(
        "\n".join(lines),
        (0, 1),
        xycoords="axes fraction",
        xytext=(PADDING, -PADDING),
        textcoords="offset points",
        va="top",
        fontsize=frame.SMALL,
        linespacing=frame.LINE - 0.1,
        color=frame.SOFT,
        gid="useless-names",
    )


def _name(ax: Axes, panel: FrontierPanel, x: Metric, y: Metric) -> None:
    """Write the name of each method beside its best point; those on the frontier come first."""
    useful = panel.useful(x, y)
    if useful.empty:
        return
    best = best_of(panel.points, x, y)
    in_order = pd.concat([best, useful.drop(best.index).sort_values(y.column)])
    named = in_order.drop_duplicates("curve")
    is_best = [index in best.index for index in named.index]
    lines = [own.sort_values("place") for _, own in useful.groupby("curve") if len(own) > 1]
    said = io.StringIO()  # textalloc prints a line if it finds no place
    with contextlib.redirect_stdout(said):
        textalloc.allocate(
            ax,
            named[x.column].to_numpy(),
            named[y.column].to_numpy(),
            [str(curve) for curve in named["curve"]],
            x_scatter=useful[x.column].to_numpy(),
            y_scatter=useful[y.column].to_numpy(),
            x_lines=[own[x.column].to_numpy() for own in lines] or None,
            y_lines=[own[y.column].to_numpy() for own in lines] or None,
            textsize=frame.SMALL,
            fontweight=["bold" if it else "normal" for it in is_best],
            textcolor=[frame.INK if it else frame.SOFT for it in is_best],
            linecolor="0.5",
            linewidth=0.5,
            margin=0.012,
            min_distance=0.02,
            max_distance=0.28,
            draw_all=False,
            avoid_label_lines_overlap=True,
            avoid_crossing_label_lines=True,
            ylims=(ax.get_ylim()[0], panel.edge),
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            zorder=4,
            gid="name",
        )
