"""The legend of a figure, to the right of its panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.failures import LETTERS, Mark
from reports.figures.style import Styles
from reports.metrics import Metric

LINE = 0.175  # inches of height that an entry takes
FEWEST = 24  # entries that may stand in a column, however low the figure is


def by_ends(labels: Iterable[str], panels: Sequence[pd.DataFrame], y: Metric) -> list[str]:
    """The labels in the order in which their lines end in the first panel, from the top."""
    ends: dict[str, float] = {}
    for points in panels:  # points are in order, so that the last of a line stays
        ends = {**dict(zip(points["label"], points[y.column], strict=True)), **ends}
    return sorted(labels, key=lambda label: (-ends.get(label, float("-inf")), label))


def entries(
    names: Mapping[str, str], marks: Sequence[Mark], styles: Styles, *, line: bool
) -> list[Line2D]:
    """An entry for each label or curve, with or without a line, and for each status among the
    marks."""
    found = [mark.status for mark in marks]
    listed = (styles[key].handle(name, line=line) for key, name in names.items())
    return [*listed, *statuses(found)]


def statuses(found: Iterable[str]) -> list[Line2D]:
    """A heading and an entry for each status among those found that has a letter."""
    present = set(found)
    listed = [
        text(f"×{letter}  {status.replace('_', ' ')}")
        for status, letter in LETTERS.items()
        if status in present
    ]
    return [text("did not finish:"), *listed] if listed else []


def draw(figure: Figure, beside: Axes, handles: Sequence[Line2D], *, gap: float) -> None:
    """The legend, `gap` inches from the axes, its top at theirs."""
    width, height = figure.get_size_inches()
    box = beside.get_position()
    has_lines = any(handle.get_linewidth() for handle in handles)
    figure.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(box.x1 + gap / width, box.y1),
        borderpad=0,
        borderaxespad=0,
        frameon=False,
        fontsize=8.5,
        handlelength=3 if has_lines else 1.2,
        ncols=-(-len(handles) // max(FEWEST, int(height / LINE))),
    )


def text(text: str) -> Line2D:
    """An entry that is words alone."""
    return Line2D([], [], linewidth=0, label=text)
