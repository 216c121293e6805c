"""Draws many methods in one figure: a row for each, a dot for each length, the best at the top.

Colours cannot distinguish many lines that cross. A row has its name beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.declared import exact_variant
from reports.figures import axes, frame, legend, levels
from reports.figures.failures import LETTERS
from reports.figures.kinds import Kind
from reports.metrics import ERROR, Metric, show_count
from reports.rows import finished
from reports.slices import Fixed, Panel

COLUMNS = 3  # panels side by side
WIDTHS = {1: 4.6, 2: 3.1, 3: 2.4}  # of a panel, in inches, by the number of columns
ROW = 0.165  # height of a row, in inches
ACROSS, DOWN = 0.5, 0.95  # inches between panels; further lines of titles are added to `DOWN`
TITLE_LINE = 12  # points
DOT, UPRIGHT, FONT, SMALL = 5.5, 11, 8.5, 6.5  # points

Colors = Mapping[int, str]  # by length or number of heads of a dot


def draw(kind: Kind, drawn: Sequence[Panel], shared: Fixed) -> Figure:
    """Draw a figure; its panels go from left to right and then down."""
    assert isinstance(kind.x, str)
    x, y = kind.x, kind.y
    rows = pd.concat([panel.rows for panel in drawn])
    placed = [axes.points(panel.rows, x, y) for panel in drawn]
    order, apart = ranked(rows, placed, x, y), _apart(rows, y)
    counts = sorted(rows[x].unique())
    colors = dict(zip(counts, sns.color_palette("flare", len(counts)).as_hex(), strict=True))
    columns = len({panel.column for panel in drawn})
    columns = min(COLUMNS, columns if columns > 1 else len(drawn))
    width = WIDTHS[columns]
    titles = [frame.panel_title(kind, panel, shared, width) for panel in drawn]
    head = TITLE_LINE * max(title.count("\n") for title in titles)
    figure, grid = frame.grid(
        -(-len(drawn) // columns),
        columns,
        panel=(width, ROW * len(order)),
        between=(ACROSS, DOWN + head / 72),
    )
    axes.scale_metric(grid[0][0], "x", y, *axes.reach(pd.concat(placed), y))
    exact = set(rows.loc[rows["variant"] == exact_variant(), "label"])
    for number, (panel, points) in enumerate(zip(drawn, placed, strict=True)):
        i, j = divmod(number, columns)
        ax = grid[i][j]
        ax.set_visible(True)
        _name_rows(ax, order, exact, named=j == 0)
        if apart:
            ax.axhline(len(order) - len(apart) - 0.5, color="0.5", linewidth=0.8, gid="apart")
        _draw_dots(ax, points, order, x, y, colors)
        _draw_failures(ax, panel.rows, order, x)
        ax.set_title(titles[number], loc="left", fontsize=10)
        ax.set_xlabel(y.label)
        ax.tick_params(labelbottom=True, labelsize=FONT)
    frame.title(figure, kind, shared, grid[0][0], head)
    held_against = levels.handles(pd.concat(placed), x, y, list(colors.values())[-1])
    handles = [*_key(kind, colors), *held_against, *legend.statuses(rows["status"])]
    legend.draw(figure, grid[0][columns - 1], handles, gap=ACROSS)
    return figure


def ranked(rows: pd.DataFrame, placed: Sequence[pd.DataFrame], x: str, y: Metric) -> list[str]:
    """The labels from best to worst; those of one variant are together.

    The first panel that has a number of a label counts: the label with the largest `x` comes first,
    then the one with the best `y` there. Labels without a finished case come last. In a ranking by
    error, methods of another operator than softmax attention come after all others, because their
    error does not measure their quality.
    """
    sign = 1 if y.better == "lower" else -1
    keys: dict[str, tuple[float, float]] = {}
    for points in placed:  # sorted by x, so the last of a label has the largest x
        last = points.drop_duplicates("label", keep="last")
        for label, reach, value in zip(last["label"], last[x], last[y.column], strict=True):
            keys.setdefault(label, (-reach, sign * value))
    variants = dict(zip(rows["label"], rows["variant"], strict=True))
    apart = _apart(rows, y)
    nowhere = (0.0, 0.0)  # of labels with a finished case the first number is negative
    best: dict[str, tuple[float, float]] = {}
    for label, variant in variants.items():
        best[variant] = min(best.get(variant, nowhere), keys.get(label, nowhere))

    def place(label: str) -> tuple[object, ...]:
        variant = variants[label]
        return label in apart, best[variant], variant, keys.get(label, nowhere), label

    return sorted(variants, key=place)


def _apart(rows: pd.DataFrame, y: Metric) -> set[str]:
    """The labels that come after all others."""
    return set(rows.loc[rows["other_operator"], "label"]) if y is ERROR else set()


def _name_rows(ax: Axes, order: Sequence[str], exact: Collection[str], *, named: bool) -> None:
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_yticks(range(len(order)), order)
    ax.tick_params(axis="y", labelleft=named)
    for text in ax.get_yticklabels():
        text.set_fontweight("bold" if text.get_text() in exact else "normal")


def _draw_dots(
    ax: Axes, points: pd.DataFrame, order: Sequence[str], x: str, y: Metric, colors: Colors
) -> None:
    """Draw a dot and its interval for each number, and vertical lines at exact attention."""
    if y is ERROR:
        axes.draw_zeros_line(ax, named=False, across=False)
    levels.draw_upright(ax, points, x, y, colors)
    if points.empty:
        ax.text(0.5, 0.5, "nothing finished", transform=ax.transAxes, ha="center", color="0.4")
    for label, own in points.groupby("label"):
        row = order.index(str(label))
        ax.hlines(row, own[y.column].min(), own[y.column].max(), color="0.75", linewidth=1)
    for count, color in colors.items():
        there = points[points[x] == count]
        at = [order.index(label) for label in there["label"]]
        if y.exact and there[y.exact].notna().any():
            ax.axvline(there[y.exact].median(), color=color, linewidth=1, zorder=1.1, gid="exact")
        if y.low and y.high:
            ax.hlines(at, there[y.low], there[y.high], color=color, linewidth=1.6)
        ax.plot(there[y.column], at, "o", color=color, markersize=DOT, label=show_count(count))


def _draw_failures(ax: Axes, rows: pd.DataFrame, order: Sequence[str], x: str) -> None:
    """Write the statuses of failed cases right of a row; with x, unless all cases ended so."""
    failed = rows.drop(finished(rows).index)
    for label, own in failed.groupby("label"):
        texts = []
        for status, there in own.groupby("status"):
            where = "" if len(there) == (rows["label"] == label).sum() else _counts(there[x])
            texts.append(f"×{LETTERS[str(status)]}{where}")
        ax.annotate(
            " ".join(texts),
            (1, order.index(str(label))),
            xycoords=ax.get_yaxis_transform(),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color="0.3",
            annotation_clip=False,
            gid=f"failed:{label}",
        )


def _counts(values: pd.Series[int]) -> str:
    first, *others = sorted(values)
    return f" {show_count(first)}" + ("+" if others else "")


def _key(kind: Kind, colors: Colors) -> Iterator[Line2D]:
    """Legend entries for the colours and the lines."""
    yield legend.text(f"{kind.x_label}:")
    for count, color in colors.items():
        yield _mark("o", DOT, color, show_count(count))
    if kind.y.exact:
        yield _mark("|", UPRIGHT, list(colors.values())[-1], "fastest exact one")
    if kind.y is ERROR:
        yield _mark("|", UPRIGHT, "0.2", "returning zeros")


def _mark(marker: str, size: float, color: str, label: str) -> Line2D:
    return Line2D([], [], linewidth=0, marker=marker, markersize=size, color=color, label=label)
