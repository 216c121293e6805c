"""Scales of axes with readable units, and lines with intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from reports.figures.style import Style
from reports.metrics import Metric, show_count

MOST_TICKS = 6
MARGIN = 1.25  # factor between the ends of the axis and the first and the last count
FEWEST_TIMES = 2.2  # an axis of times goes at least to this multiple of its start
LINEAR = 0.35  # height of the linear part of an axis, in decades
SMALLEST_LINEAR, LARGEST_LINEAR = 0.001, 0.1


def draw_line(ax: Axes, line: pd.DataFrame, x: str, y: Metric, style: Style) -> None:
    """Draw the points of one label, joined, with their intervals as a band or as bars."""
    line = line.sort_values(x)
    if y.low and y.high:
        ends = line.dropna(subset=[y.low, y.high])
        low, high = ends[y.low], ends[y.high]
        if len(ends) > 1:
            ax.fill_between(ends[x], low, high, color=style.color, alpha=0.13, linewidth=0)
        else:
            ax.vlines(ends[x], low, high, color=style.color, linewidth=1)
    ax.plot(
        line[x],
        line[y.column],
        color=style.color,
        marker=style.marker,
        markersize=4.5,
        markerfacecolor=style.face,
        markeredgecolor=style.edge,
        markeredgewidth=0.5,
        linewidth=0.8 * style.width,
        dashes=style.dashes or (None, None),
        zorder=2,
        gid="line",
    )


def scale_counts(ax: Axes, values: Sequence[int]) -> None:
    """Set a base-2 x axis with a tick at each measured value, or at some if there are many."""
    ticks = sorted({int(value) for value in values})
    ax.set_xscale("log", base=2)
    ax.set_xlim(ticks[0] / MARGIN, ticks[-1] * MARGIN)
    if len(ticks) > MOST_TICKS:  # an even subset; powers of two first
        ticks = [n for n in ticks if n.bit_count() == 1] or ticks
    ax.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // MOST_TICKS)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(_formatter(show_count))


def scale_log(ax: Axes, which: str, metric: Metric, low: float, high: float) -> None:
    """Set a logarithmic axis with readable units around the values from `low` to `high`."""
    axis, set_scale, set_limits = (
        (ax.yaxis, ax.set_yscale, ax.set_ylim)
        if which == "y"
        else (ax.xaxis, ax.set_xscale, ax.set_xlim)
    )
    base = 2 if metric.unit == "bytes" else 10
    set_scale("log", base=base)
    margin = max((high / low) ** 0.08, 1.12, math.sqrt(FEWEST_TIMES * low / high))
    low, high = low / margin, high * margin
    set_limits(low, high)
    if base == 2:
        power = max(1, math.ceil(math.log2(high / low) / MOST_TICKS))
        axis.set_major_locator(LogLocator(2**power))
    else:
        axis.set_major_locator(FixedLocator(_decimal_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_formatter(metric.show))


def _decimal_ticks(low: float, high: float) -> list[float]:
    """At least two round numbers, and three where the range has them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
        ticks = [it for n in powers for step in steps if low <= (it := step * 10.0**n) <= high]
        if len(ticks) >= 3:
            break
    return ticks


def linear_below(errors: pd.Series[float]) -> float:
    """The end of the linear part of an axis of errors: 1 or 3 times a power of ten, below all
    errors that are more than rounding."""
    smallest = errors[errors > SMALLEST_LINEAR].min()
    if pd.isna(smallest):
        return LARGEST_LINEAR
    unit = 10.0 ** math.floor(math.log10(smallest))
    return min(LARGEST_LINEAR, (3 if smallest >= 3 * unit else 1) * unit)


def scale_errors(
    ax: Axes, metric: Metric, linear: float, lowest: float, edge: float, above: float
) -> None:
    """Set a y axis from `lowest` to `edge` that is linear around zero, up to `linear`.

    `above` is the part of the height above the edge.
    """
    bottom = -linear / 3 if lowest >= 0 else 1.4 * min(lowest, -linear / 3)
    below = 0.0 if -bottom <= linear else math.log10(-bottom / linear)
    height = LINEAR * (1 + min(1.0, -bottom / linear)) + below + math.log10(edge / linear)
    ax.set_yscale("symlog", linthresh=linear, linscale=LINEAR * 0.9)
    ax.set_ylim(bottom, edge * 10 ** (height * above / (1 - above)))
    ticks = [step * 10.0**power for power in range(-4, 4) for step in (1, 3)]
    shown = [tick for tick in ticks if linear <= tick <= 1.02 * edge]
    negative = [-tick for tick in shown if -tick > bottom]
    ax.yaxis.set_major_locator(FixedLocator([*negative, 0, *shown]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(_formatter(metric.show))


def _formatter(show: Callable[[float], str]) -> FuncFormatter:
    """Ticks are round numbers: `10 ms`, not `10.0 ms`."""

    def text(value: float, _: int | None = None) -> str:
        return re.sub(r"\.0+\b|(\.\d*?[1-9])0+\b", r"\1", show(value))

    return FuncFormatter(text)
