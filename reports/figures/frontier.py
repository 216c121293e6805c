"""The points that no other point beats in both of two metrics, found and drawn."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from reports.figures.style import Styles
from reports.metrics import Metric
from reports.rows import EXACT

LETTER, LINE = 4.7, 9.0  # what a letter and a line of a name take, in points
Box = tuple[float, float, float, float]  # left, low, right, high


def frontier(rows: pd.DataFrame, x: Metric, y: Metric, floor: float = 0.0) -> pd.DataFrame:
    """The rows that are best in `y` among all that are as good in `x`, from the best `x` on.

    Values of `y` below `floor` count as equal to it.
    """
    points = rows.dropna(subset=[x.column, y.column])
    xs = _lower_is_better(points, x)
    ys = _lower_is_better(points, y).clip(lower=floor)
    order = pd.DataFrame({"x": xs, "y": ys}).sort_values(["x", "y"])
    best_before = order["y"].cummin().shift(fill_value=float("inf"))
    return points.loc[order.index[order["y"] < best_before]]


def rounding(rows: pd.DataFrame, y: Metric) -> float:
    """An error that is rounding and no more: twice the least of exact attention; 0 without it.

    So a slower exact implementation is not on the frontier for the luck of its last bits.
    """
    exact = rows.loc[rows["variant"] == EXACT, y.column].dropna()
    return 2 * float(exact.min()) if len(exact) else 0.0


def draw_frontier(ax: Axes, placed: pd.DataFrame, x: Metric, y: Metric, styles: Styles) -> None:
    """A point for each label; those that nothing beats in both are joined and named."""
    labels = list(placed["label"].unique())
    sns.scatterplot(
        data=placed,
        x=x.column,
        y=y.column,
        hue="label",
        style="label",
        palette={label: styles[label].color for label in labels},
        markers={label: styles[label].marker for label in labels},
        s=75,
        zorder=3,
        legend=False,
        ax=ax,
    )
    for _, point in placed.iterrows():
        color = styles[point["label"]].color
        if x.low and x.high:
            ax.hlines(point[y.column], point[x.low], point[x.high], color=color, linewidth=1)
        if y.low and y.high:
            ax.vlines(point[x.column], point[y.low], point[y.high], color=color, linewidth=1)
    best = frontier(placed, x, y, floor=rounding(placed, y))
    ax.plot(best[x.column], best[y.column], color="0.5", linewidth=1.2, zorder=1, gid="frontier")
    ax.text(0.02, 0.03, "↙ better", transform=ax.transAxes, fontsize=8, color="0.4")
    _name(ax, best.drop_duplicates("variant"), placed, x, y, styles)


def _name(
    ax: Axes, best: pd.DataFrame, placed: pd.DataFrame, x: Metric, y: Metric, styles: Styles
) -> None:
    """Write variants beside their points: below left, or near there if something is in the way."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    columns = [x.column, y.column]
    to_points = 72 / figure.dpi
    taken: list[Box] = [
        (left - 4, low - 4, left + 4, low + 4)
        for left, low in ax.transData.transform(placed[columns].to_numpy()) * to_points
    ]
    edge = ax.get_window_extent().x0 * to_points
    for _, point in best.iterrows():
        name = str(point["variant"])
        anchor = (float(point[x.column]), float(point[y.column]))
        left, low = ax.transData.transform(anchor) * to_points
        width = LETTER * len(name)
        places = [(-6 - width, up) for up in (-9, -4, 1, -15, -21, -27)] + [
            (6, up) for up in (-9, 1, 8, -15)
        ]
        boxes = [(left + dx, low + dy, left + dx + width, low + dy + LINE) for dx, dy in places]
        free = [
            box[0] >= edge and not any(_overlap(box, other) for other in taken) for box in boxes
        ]
        chosen = free.index(True) if any(free) else len(places) - 1
        taken.append(boxes[chosen])
        ax.annotate(
            name,
            anchor,
            xytext=places[chosen],
            textcoords="offset points",
            fontsize=8,
            color=styles[point["label"]].color,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _lower_is_better(rows: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    values = rows[metric.column].astype("float64")
    return values if metric.better == "lower" else -values
