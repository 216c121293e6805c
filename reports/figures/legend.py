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

LINE = 0.175  # height of an entry, in inches
FEWEST = 24  # entries that a column may have, even if the figure is lower


def by_ends(labels: Iterable[str], panels: Sequence[pd.DataFrame], y: Metric) -> list[str]:
    """The labels in the order of their line ends, from top to bottom."""
    ends: dict[str, float] = {}
    for points in panels:  # points are sorted by x, so the last of a line stays
        ends = {**dict(zip(points["label"], points[y.column], strict=True)), **ends}
    return sorted(labels, key=lambda label: (-ends.get(label, float("-inf")), label))


def entries(
    names: Mapping[str, str], marks: Sequence[Mark], styles: Styles, *, line: bool
) -> list[Line2D]:
    """Entries for each label or curve, with or without a line, and for each status of the marks."""
    found = [mark.status for mark in marks]
    listed = (styles[key].handle(name, line=line) for key, name in names.items())
    return [*listed, *statuses(found)]


def statuses(found: Iterable[str]) -> list[Line2D]:
    """A heading and an entry for each status in `found` that has a letter."""
    present = set(found)
    listed = [
        text(f"×{letter}  {status.replace('_', ' ')}")
        for status, letter in LETTERS.items()
        if status in present
    ]
    return [text("did not finish:"), *listed] if listed else []


def draw(figure: Figure, beside: Axes, handles: Sequence[Line2D], *, gap: float) -> None:
    """Draw the legend `gap` inches right of the axes, aligned with their top."""
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
    """An entry that is only text."""
    return Line2D([], [], linewidth=0, label=text)
