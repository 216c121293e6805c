"""Draws in one set of axes: scales with readable units, lines and intervals."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reports.declared import exact_variant
from reports.figures.style import Styles
from reports.metrics import Metric, show_count
from reports.rows import finished

MOST_TICKS = 7
MARGIN = 1.5  # factor between the ends of the axis and the first and the last count


def points(rows: pd.DataFrame, x: str, y: Metric) -> pd.DataFrame:
    """The rows that can be drawn; their numbers are floats and at most the ceiling."""
    drawn = _drawn(y)
    numbers = finished(rows).astype(dict.fromkeys([x, *drawn], "float64"))
    numbers = numbers.replace([np.inf, -np.inf], np.nan)
    if y.log and y.linear_below is None:  # such an axis has no zero
        numbers[drawn] = numbers[drawn].where(numbers[drawn] > 0)
    numbers[drawn] = numbers[drawn].clip(upper=y.ceiling)
    return numbers.dropna(subset=[x, y.column]).sort_values(["label", x])


def reach(placed: pd.DataFrame, metric: Metric) -> tuple[float, float]:
    """The smallest and the largest number of a metric, including its intervals and levels."""
    numbers = placed[_drawn(metric)]
    return numbers.min().min(), numbers.max().max()


def _drawn(metric: Metric) -> list[str]:
    columns = (metric.column, metric.low, metric.high, metric.floor, metric.trivial)
    return [column for column in columns if column]


def draw_lines(ax: Axes, placed: pd.DataFrame, x: str, y: Metric, styles: Styles) -> None:
    """Draw a line for each label, with its interval as a band, or as a bar for a single point."""
    for label, line in placed.groupby("label"):
        style = styles[str(label)]
        if y.low and y.high:
            interval = line.dropna(subset=[y.low, y.high])
            low, high = interval[y.low], interval[y.high]
            if len(interval) > 1:
                ax.fill_between(interval[x], low, high, color=style.color, alpha=0.12, linewidth=0)
            else:
                ax.vlines(interval[x], low, high, color=style.color, linewidth=1)
        # The line of exact attention is thick; it is drawn below the others to hide none of them.
        is_exact = (line["variant"] == exact_variant()).all()
        ax.plot(
            line[x],
            line[y.column],
            color=style.color,
            marker=style.marker,
            markersize=6.5,
            markeredgecolor="white",
            linewidth=style.width,
            dashes=style.dashes or (None, None),
            label=str(label),
            zorder=1.5 if is_exact else 2,
        )


def draw_zeros_line(ax: Axes, *, named: bool, across: bool = True) -> None:
    """Draw a line at the error of an output of zeros, which is better than any method above it.

    The line is horizontal with `across`, else vertical, for axes with errors along x.
    """
    line = ax.axhline if across else ax.axvline
    line(1, color="0.2", linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1.2, gid="zeros")
    if named:
        ax.annotate(
            "1.0 =\nreturning\nzeros",
            (1, 1),
            xycoords=ax.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="0.2",
            annotation_clip=False,
        )


def scale_counts(ax: Axes, values: Sequence[int]) -> None:
    """Set a base-2 x axis with a tick at each measured value, or at some if there are many."""
    ticks = sorted(set(values))
    ax.set_xscale("log", base=2)
    ax.set_xlim(ticks[0] / MARGIN, ticks[-1] * MARGIN)
    ax.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // MOST_TICKS)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(_formatter(show_count))


def room(values: Sequence[int], width: float) -> float:
    """The width of free space around each value on that axis, in the unit of `width`."""
    ticks = np.log2(sorted(set(values)))
    margin = np.log2(MARGIN)
    nearest = min([2 * margin, *np.diff(ticks)])
    return float(width * nearest / (ticks[-1] - ticks[0] + 2 * margin))


def scale_metric(
    ax: Axes, which: str, metric: Metric, low: float, high: float, *, names: bool = False
) -> None:
    """Set an axis with readable units around the values from `low` to `high`.

    With `names`, the axis has space for names to the left of the points.
    """
    axis, set_scale, set_limits = (
        (ax.yaxis, ax.set_yscale, ax.set_ylim)
        if which == "y"
        else (ax.xaxis, ax.set_xscale, ax.set_xlim)
    )
    if metric.linear_below is not None:
        edge = metric.linear_below
        decades = edge * 10.0 ** np.arange(0, 16)
        set_scale("symlog", linthresh=edge, linscale=0.4)
        set_limits(min(-edge / 3, 1.5 * low), max(high, 1) * 1.5)
        steps = (1, 3) if high < 30 else (1,)
        ticks = [step * d for d in decades for step in steps]
        axis.set_major_locator(FixedLocator([*(-tick for tick in ticks), 0, *ticks]))
        axis.set_minor_locator(NullLocator())
    else:
        base = 4 if metric.unit == "bytes" else 10
        set_scale("log", base=base)
        margin = max((high / low) ** 0.06, 1.15)
        set_limits(low / margin ** (5 if names else 1), high * margin)
        subs: tuple[int, ...] = (1,)
        if base == 10 and high / low < 300:
            subs = (1, 2, 5) if high / low < 30 else (1, 3)
        axis.set_major_locator(LogLocator(base, subs=subs))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_formatter(metric.show, metric.ceiling))
    axis.set_minor_formatter(_formatter(lambda _: ""))


def _formatter(show: Callable[[float], str], ceiling: float | None = None) -> FuncFormatter:
    """Ticks are round numbers: `10 ms`, not `10.0 ms`. The tick at the ceiling has a `≥`."""

    def text(value: float, _: int | None = None) -> str:
        least = "≥ " if value == ceiling else ""
        return least + re.sub(r"\.0+\b|(\.\d*?[1-9])0+\b", r"\1", show(value))

    return FuncFormatter(text)
