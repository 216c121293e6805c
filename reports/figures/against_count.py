"""Time, memory and error against the length or the number of heads: a row for each scene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.curves import one_setting
from reports.figures import axes, frame
from reports.figures.figure_notes import listed
from reports.figures.frontier import BAND
from reports.figures.plain_text import plain_text
from reports.figures.style import DASHES, Style, Styles
from reports.metrics import ERROR, MEMORY, STATE, TIME, TOKEN_TIME, Metric

MOST_ROWS = 3
MOST_LINES = 8  # beside exact attention
SIZE = frame.PanelSize(2.35, 1.75, 0.62, 0.42)
EXACT = Style(color="black", marker="o", dashes=(), width=2.6)
EXACT_NAME = "exact attention (best implementation)"
READING = (
    "The default setting of each method, where its error is better than a baseline. Grey ground: "
    "no better than the mean of the values or zeros. Bands are the intervals."
)
ABOVE = 0.1  # part of the height of an axis of errors


@dataclass(frozen=True)
class CountRow:
    """The points of the three panels of a row; they differ in the label and in the count."""

    title: str
    points: pd.DataFrame


@dataclass(frozen=True)
class Lines:
    """The names of the labels that are drawn, and in words the others."""

    names: Mapping[str, str]
    note: str


def lines_of(points: pd.DataFrame, x: str, most: int = MOST_LINES) -> Lines:
    """The default settings of methods that are useful at the largest count of some scene.

    Of too many methods, those that are useful at the most counts, then those with the smallest
    error. `points` have a number `row` for each scene.
    """
    others = points[~points["is_exact"]]
    if len(others):
        others = one_setting(others)
    largest = others.groupby("row")[x].transform("max")
    useful = others[others["excluded"] == ""]
    kept = set(useful.loc[useful[x] == largest[useful.index], "label"])
    by_label = useful[useful["label"].isin(kept)].groupby("label")[ERROR.column]
    ranks = by_label.agg(["size", "median"]).sort_values(
        ["size", "median"], ascending=[False, True]
    )
    ranked = [str(label) for label in ranks.index]
    names = dict(zip(others["label"], others["curve"], strict=True))
    dropped = others[~others["label"].isin(kept)]
    rest = sorted(set(dropped["curve"].mask(dropped["other_operator"], dropped["variant"])))
    beyond = listed([names[label] for label in ranked[most:]])
    end = "length" if x == "seq_len" else "number of heads"
    notes = (
        f"Useful, but beyond the limit of {most} methods: {beyond}." if beyond else "",
        f"Not drawn, as no better than a baseline at the largest {end}, or another operator: "
        f"{listed(rest)}."
        if rest
        else "",
    )
    drawn = {label: str(names[label]) for label in sorted(ranked[:most])}
    return Lines(drawn, " ".join(filter(None, notes)))


@plain_text()
def draw(
    title: str,
    conditions: str,
    rows: Sequence[CountRow],
    x: str,
    x_label: str,
    styles: Styles,
    notes: Sequence[str],
    *,
    is_decoding: bool = False,
) -> Figure:
    """Draw the figure: a row of panels for each of `rows`, a column for each quantity."""
    every = pd.concat([it.points.assign(row=number) for number, it in enumerate(rows)])
    every = every.reset_index(drop=True)
    lines = lines_of(every, x)
    looks = _looks(lines.names, every, styles)
    metrics = [TOKEN_TIME, STATE, ERROR] if is_decoding else [TIME, MEMORY, ERROR]
    metrics = [it for it in metrics if every[it.column].notna().any()]
    tall = any(row.title for row in rows)
    size = replace(SIZE, down=SIZE.down if tall else 0.3)
    figure, grid = frame.grid(len(rows), len(metrics), size, sharex="all", sharey="col")
    axes.scale_counts(grid[0][0], every[x].tolist())
    drawn = every[(every["label"].isin(looks) | every["is_exact"]) & (every["excluded"] == "")]
    for j, metric in enumerate(metrics):
        _scale(grid[0][j], metric, drawn, every)
        frame.column_title(grid[0][j], metric.label, lines=int(tall))
        for i, row in enumerate(rows):
            ax = grid[i][j]
            ax.set_visible(True)
            _draw_panel(ax, row.points, x, metric, looks)
            ax.tick_params(labelbottom=i == len(rows) - 1)
            if j == 0 and row.title:
                ax.set_title(row.title, loc="left", fontsize=frame.TEXT, color=frame.INK, pad=4)
            if i == len(rows) - 1:
                ax.set_xlabel(x_label, fontsize=frame.TEXT)
    frame.heading(figure, title, conditions, lines=1 + int(tall))
    handles = [
        *([EXACT.handle(EXACT_NAME)] if every["is_exact"].any() else []),
        *(looks[label].handle(name) for label, name in lines.names.items()),
    ]
    frame.foot(figure, handles, [READING, lines.note, *notes])
    return figure


def _looks(names: Mapping[str, str], points: pd.DataFrame, styles: Styles) -> dict[str, Style]:
    """The style of each label; only lines of one variant have different dashes."""
    variants = dict(zip(points["label"], points["variant"], strict=True))
    seen: Counter[str] = Counter()
    looks = {}
    for label, curve in names.items():
        looks[label] = replace(styles[curve], dashes=DASHES[seen[variants[label]] % len(DASHES)])
        seen[variants[label]] += 1
    return looks


def _scale(ax: Axes, metric: Metric, drawn: pd.DataFrame, every: pd.DataFrame) -> None:
    values = drawn[metric.column].dropna()
    if metric is not ERROR:
        values = values[values > 0]
        axes.scale_log(ax, "y", metric, values.min(), values.max()) if len(values) else None
        return
    approximate = drawn.loc[~drawn["is_exact"], metric.column]
    linear = axes.linear_below(approximate)
    axes.scale_errors(ax, metric, linear, 0.0, float(every["edge"].max()), ABOVE)


def _draw_panel(
    ax: Axes,
    points: pd.DataFrame,
    x: str,
    metric: Metric,
    looks: Styles,
) -> None:
    if metric is ERROR:
        edges = points.groupby(x)["edge"].max().sort_index()
        at, levels = edges.index.tolist(), edges.tolist()
        # The ground reaches the ends of the axes.
        ends = [ax.get_xlim()[0], *at, ax.get_xlim()[1]]
        whole = [levels[0], *levels, levels[-1]]
        ax.fill_between(ends, whole, ax.get_ylim()[1], color=BAND, linewidth=0, zorder=0.5)
    shown = points[points["excluded"] == ""].dropna(subset=[metric.column])
    exact = shown[shown["is_exact"]]
    if len(exact):
        best = exact.loc[exact.groupby(x)[metric.column].idxmin()]
        axes.draw_line(ax, best, x, metric, EXACT)
    for label, look in looks.items():
        own = shown[shown["label"] == label]
        if len(own):
            axes.draw_line(ax, own, x, metric, look)
