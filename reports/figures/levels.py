"""Lines to compare an error with: the rounding of the dtype, and the mean of all values.

Both depend on the inputs and the length and on no method, so each is one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from reports.metrics import Metric

FLOOR, MEAN = "floor", "mean of V"
DASHES = {FLOOR: (4, 2), MEAN: (7, 2, 1.5, 2)}
COLOR = "0.25"
FONT = 7.5
UNSEEN = 0.05  # a relative difference that counts as none

Colors = Mapping[int, str]  # by length


@dataclass(frozen=True)
class Level:
    """A line; `sort` is `FLOOR` or `MEAN`, `name` is the text beside the line."""

    sort: str
    name: str
    values: pd.Series[float]  # by the value on the other axis


def levels(points: pd.DataFrame, x: str, y: Metric) -> list[Level]:
    """The levels of one panel, by `x`; empty if they were not measured."""
    if points.empty:
        return []
    dtypes = " and ".join(sorted(points["dtype"].unique()))
    columns = ((FLOOR, f"{dtypes} floor", y.floor), (MEAN, MEAN, y.trivial))
    found = []
    for sort, name, column in columns:
        if column is None:
            continue
        values = points.groupby(x)[column].median().dropna()
        if len(values):
            found.append(Level(sort, name, values))
    return found


def draw_lines(ax: Axes, points: pd.DataFrame, x: str, y: Metric) -> None:
    """Draw each level along x; it is a horizontal line if it is the same at all x values."""
    for level in levels(points, x, y):
        if _is_flat(level.values, y):
            _across(ax, level)
        else:
            ax.plot(level.values.index, level.values, **_look(level, COLOR))
            _name(ax, level)


def draw_across(ax: Axes, points: pd.DataFrame, x: str, y: Metric) -> None:
    """Draw each level as a horizontal line, for a panel with points of one length."""
    for level in levels(points, x, y):
        _across(ax, level)


def draw_upright(ax: Axes, points: pd.DataFrame, x: str, y: Metric, colors: Colors) -> None:
    """Draw vertical levels, for errors along x: a line for each length in its colour."""
    for level in levels(points, x, y):
        for count, color in colors.items():
            if count in level.values.index:
                ax.axvline(level.values[count], **_look(level, color))


def handles(points: pd.DataFrame, x: str, y: Metric, color: str = COLOR) -> list[Line2D]:
    """The legend entries of all levels of a figure."""
    return [
        Line2D([], [], **_look(level, color) | {"label": level.name})
        for level in levels(points, x, y)
    ]


def _is_flat(values: pd.Series[float], y: Metric) -> bool:
    greatest = max(values.max(), y.linear_below or 0.0)
    return bool(values.max() - values.min() <= UNSEEN * greatest)


def _across(ax: Axes, level: Level) -> None:
    ax.axhline(float(level.values.median()), **_look(level, COLOR))
    _name(ax, level)


def _name(ax: Axes, level: Level) -> None:
    """Write the floor below its left end, because panels may have several dtypes."""
    if level.sort == FLOOR:
        ax.annotate(
            level.name,
            (0, float(level.values.iloc[0])),
            xycoords=ax.get_yaxis_transform(),
            xytext=(2, -2),
            textcoords="offset points",
            va="top",
            fontsize=FONT,
            color=COLOR,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=4,
            gid=f"named:{level.sort}",
        )


def _look(level: Level, color: str) -> dict[str, Any]:
    return {
        "color": color,
        "linewidth": 1.1,
        "dashes": DASHES[level.sort],
        "zorder": 1.3,
        "gid": level.sort,
        "label": f"_{level.sort}",
    }
