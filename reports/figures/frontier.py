"""Error against time: curves of settings, and the points that no other point beats."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from reports.figures import naming
from reports.figures.style import Styles
from reports.metrics import Metric
from reports.names import OTHER_OPERATOR
from reports.pareto import frontier, rounding

LETTER, BOLD = 4.6, 5.3  # the width of a letter of a name, in points
SMALLEST, LARGEST = 10, 36  # marks, in square points
LEADER = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}


def draw_frontier(ax: Axes, placed: pd.DataFrame, x: Metric, y: Metric, styles: Styles) -> None:
    """Draw a line for each curve in the order of its knob, with marks that grow along it.

    A grey line joins the points that no other point beats in both metrics; their names are bold.
    """
    for curve, own in placed.sort_values("place").groupby("curve"):
        style = styles[str(curve)]
        at = own[x.column], own[y.column]
        ax.plot(*at, color=style.color, linewidth=1.2, alpha=0.8, zorder=2, label=str(curve))
        ax.scatter(
            *at,
            s=np.linspace(SMALLEST, LARGEST, len(own)) if len(own) > 1 else LARGEST,
            color=style.color,
            marker=style.marker,
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
        )
        interval: dict[str, Any] = {
            "color": style.color,
            "linewidth": 0.9,
            "alpha": 0.7,
            "zorder": 1.8,
        }
        if x.low and x.high:
            ax.hlines(own[y.column], own[x.low], own[x.high], **interval)
        if y.low and y.high:
            ax.vlines(own[x.column], own[y.low], own[y.high], **interval)
    best = frontier(placed[~placed["other_operator"]], x, y, floor=rounding(placed, y))
    ax.plot(best[x.column], best[y.column], color="0.82", linewidth=3.5, zorder=1, gid="frontier")
    ax.text(0.02, 0.11, "↙ better", transform=ax.transAxes, fontsize=8, color="0.4")
    _name(ax, best, placed, x, y, styles)


def _name(
    ax: Axes, best: pd.DataFrame, placed: pd.DataFrame, x: Metric, y: Metric, styles: Styles
) -> None:
    """Write each variant beside one of its points; those of `best` come first and are bold.

    Other variants without free space are named in the legend only.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    to_points = 72 / figure.dpi
    numbers = placed[[x.column, y.column]].to_numpy()
    spots = dict(zip(placed.index, ax.transData.transform(numbers) * to_points, strict=True))
    left, low, right, high = (edge * to_points for edge in ax.get_window_extent().extents)
    lines = [
        spot
        for _, own in placed.sort_values("place").groupby("curve")
        for before, after in pairwise([spots[index] for index in own.index])
        for spot in naming.between(before, after)
    ]
    room = naming.Room(spots, (left, low - naming.LINE, right, high), lines)
    by_merit = pd.concat([best, placed.drop(best.index)])
    for variant, own in by_merit.groupby("variant", sort=False):
        is_best = own.index[0] in best.index
        near = list(own.index.intersection(best.index) if is_best else own.index)
        name = f"{variant} ({OTHER_OPERATOR})" if own["other_operator"].all() else str(variant)
        width = len(name) * (BOLD if is_best else LETTER)
        place = room.take(near, width)
        if place is None and is_best:
            place = room.take(near, width, across_others=True) or naming.LabelPlace(near[0], 7, -9)
        if place is None:
            continue
        point = own.loc[place.point]
        color = styles[str(point["curve"])].color
        ax.annotate(
            name,
            (point[x.column], point[y.column]),
            xytext=(place.across, place.up),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold" if is_best else "normal",
            color=color,
            arrowprops=LEADER | {"color": color} if place.is_far else None,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=4,
        )
