"""What an error is to be held against: the rounding of the dtype, and the mean of all values.

Both depend on the inputs and the length and on no method, so that they are lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from reports.metrics import Metric

FLOOR, MEAN = "floor", "mean of V"
DASHES = {FLOOR: (4, 2), MEAN: (7, 2, 1.5, 2)}
COLOR = "0.25"
FONT = 7.5

Colors = Mapping[int, str]  # by length


@dataclass(frozen=True)
class Level:
    """A line: `sort` is what it is, `name` what stands beside it."""

    sort: str
    name: str
    values: pd.Series[float]  # by the place on the other axis


def levels(points: pd.DataFrame, x: str, y: Metric) -> list[Level]:
    """The levels of one panel, by `x`; none where they were not measured."""
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
    """From place to place on the x axis; across the axes where there is one place alone."""
    for level in levels(points, x, y):
        if len(level.values) == 1:
            _across(ax, level, float(level.values.iloc[0]))
            continue
        (line,) = ax.plot(level.values.index, level.values, color=COLOR, linewidth=1.1, zorder=1.3)
        line.set(dashes=DASHES[level.sort], gid=level.sort, label=f"_{level.sort}")
        _name(ax, level, float(level.values.index[0]), float(level.values.iloc[0]), at_edge=False)


def draw_across(ax: Axes, points: pd.DataFrame, x: str, y: Metric) -> None:
    """One level for a panel whose points are all of one length; their median if they are not."""
    for level in levels(points, x, y):
        _across(ax, level, float(level.values.median()))


def draw_upright(ax: Axes, points: pd.DataFrame, x: str, y: Metric, colors: Colors) -> None:
    """Where errors are on the x axis: a line at each length in its colour."""
    for level in levels(points, x, y):
        for count, color in colors.items():
            if count not in level.values.index:
                continue
            line = ax.axvline(level.values[count], color=color, linewidth=1.1, zorder=1.2)
            line.set(dashes=DASHES[level.sort], gid=level.sort, label=f"_{level.sort}")


def named(points: pd.DataFrame, x: str, y: Metric) -> Iterator[tuple[str, str]]:
    """What there is in a figure, and its name, for a legend."""
    for level in levels(points, x, y):
        yield level.sort, level.name


def _across(ax: Axes, level: Level, value: float) -> None:
    line = ax.axhline(value, color=COLOR, linewidth=1.1, zorder=1.3)
    line.set(dashes=DASHES[level.sort], gid=level.sort, label=f"_{level.sort}")
    _name(ax, level, 0, value, at_edge=True)


def _name(ax: Axes, level: Level, x: float, y: float, *, at_edge: bool) -> None:
    """Beside the left end of a line; the floor's name is below, as exact attention lies above."""
    below = level.sort == FLOOR
    ax.annotate(
        level.name,
        (x, y),
        xycoords=ax.get_yaxis_transform() if at_edge else "data",
        xytext=(2, -2 if below else 2),
        textcoords="offset points",
        va="top" if below else "bottom",
        fontsize=FONT,
        color=COLOR,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        zorder=4,
        gid=f"named:{level.sort}",
    )
