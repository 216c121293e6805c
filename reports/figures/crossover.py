"""Lengths at which a method is faster or smaller than exact attention: a row for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures import axes, frame
from reports.figures.plain_text import plain_text
from reports.figures.style import Styles
from reports.page.crossover_lengths import Crossover

ROW = 0.19  # height of a method, in inches
WIDTH, ACROSS, DOWN = 2.3, 0.25, 0.45
QUANTITIES = ("faster", "smaller")


@dataclass(frozen=True)
class CrossoverColumn:
    """The crossovers of one scene."""

    title: str
    found: Sequence[Crossover]


@plain_text()
def draw(
    title: str,
    conditions: str,
    columns: Sequence[CrossoverColumn],
    names: Mapping[str, str],
    styles: Styles,
    notes: Sequence[str],
) -> Figure:
    """Draw the figure: a column for each scene, a row of panels for time and one for memory.

    `names` has the names of the methods by their labels, from top to bottom.
    """
    labels = list(names)
    size = frame.PanelSize(WIDTH, ROW * max(3, len(labels)), ACROSS, DOWN)
    figure, grid = frame.grid(2, len(columns), size, sharex="all", sharey="all")
    lengths = {n for column in columns for it in column.found for n in it.faster}
    axes.scale_counts(grid[0][0], sorted(lengths))
    grid[0][0].set_ylim(len(labels) - 0.5, -0.5)
    titles = 1
    for j, column in enumerate(columns):
        for i, words in enumerate(QUANTITIES):
            ax = grid[i][j]
            ax.set_visible(True)
            ax.set_yticks(range(len(labels)), list(names.values()))
            ax.grid(axis="y", visible=False)
            ax.tick_params(labelleft=j == 0, labelbottom=i == 1, left=False)
            if i == 0:
                titles = max(titles, frame.panel_title(ax, column.title, size))
            if j == 0:
                ax.set_ylabel(words, fontsize=frame.TEXT, fontweight="bold")
            if i == 1:
                ax.set_xlabel("sequence length", fontsize=frame.TEXT)
            for it in column.found:
                if it.label in labels:
                    better = it.faster if i == 0 else it.smaller
                    row = labels.index(it.label)
                    _draw_method(ax, row, better, it.useful, styles[it.label].color)
    frame.heading(figure, title, conditions, lines=titles)
    frame.foot(figure, _key(), notes)
    return figure


def _draw_method(
    ax: Axes, row: int, better: Mapping[int, bool], useful: Mapping[int, bool], color: str
) -> None:
    for (before, is_before), (after, is_after) in pairwise(better.items()):
        if not (useful[before] and useful[after]):
            ax.plot([before, after], [row, row], color="0.8", linewidth=0.8, zorder=1)
        elif is_before and is_after:
            ax.plot([before, after], [row, row], color=color, linewidth=3.5, solid_capstyle="butt")
        elif is_before or is_after:
            ax.plot([before, after], [row, row], color=color, linewidth=1.2, linestyle=":")
        else:
            ax.plot([before, after], [row, row], color="0.8", linewidth=0.8, zorder=1)
    for n, wins in better.items():
        if not useful[n]:
            ax.plot(n, row, "x", markersize=5.5, color="0.45", zorder=3, gid="useless")
            continue
        ax.plot(
            n,
            row,
            "o",
            markersize=5.5,
            markeredgewidth=1.1,
            markeredgecolor=color if wins else "0.6",
            markerfacecolor=color if wins else "white",
            gid="better" if wins else "not",
        )


def _key() -> list[Line2D]:
    look: dict[str, Any] = {"color": "0.25", "markersize": 5.5}
    return [
        Line2D([], [], marker="o", linewidth=3.5, label="better at the measured length", **look),
        Line2D(
            [], [], marker="o", markerfacecolor="white", linewidth=0, label="not better", **look
        ),
        Line2D([], [], marker="x", linewidth=0, label="no better than a baseline", **look),
        Line2D([], [], linestyle=":", label="the crossover is between these lengths", **look),
    ]
