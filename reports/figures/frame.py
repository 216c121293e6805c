"""The parts of every figure: a grid of axes of fixed size, titles of panels, a common title."""

from __future__ import annotations

import textwrap
from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from reports.figures.kinds import Kind
from reports.figures.plain_text import families
from reports.slices import Fixed, Panel, describe

LETTERS_PER_INCH = 13  # in the title of a panel


def grid(
    rows: int,
    columns: int,
    *,
    panel: tuple[float, float],
    between: tuple[float, float],
) -> tuple[Figure, list[list[Axes]]]:
    """Make a grid of hidden axes that share scales. `panel` and `between` are in inches."""
    width, height = panel
    across, down = between
    size = (columns * (width + across), rows * (height + down))
    figure = Figure(figsize=size)
    with sns.axes_style("whitegrid", {"grid.color": "0.9", "font.family": families()}):
        made = figure.subplots(
            rows,
            columns,
            sharex=True,
            sharey=True,
            squeeze=False,
            gridspec_kw={
                "left": 0,
                "bottom": 0,
                "right": 1 - across / size[0],
                "top": 1 - down / size[1],
                "wspace": across / width,
                "hspace": down / height,
            },
        )
    for ax in made.flat:
        ax.set_visible(False)
        sns.despine(ax=ax, left=True)
    return figure, [list(line) for line in made]


def panel_title(kind: Kind, panel: Panel, shared: Fixed, width: float) -> str:
    """The values that differ between panels, in lines that fit `width` in inches."""
    own = {kind.column: panel.column, kind.row: panel.row, **panel.fixed}
    text = describe({name: value for name, value in own.items() if name not in shared})
    return textwrap.fill(text, int(width * LETTERS_PER_INCH))


def title(figure: Figure, kind: Kind, shared: Fixed, ax: Axes, head: float) -> None:
    """Write the title and the values that all panels share, `head` points above the first axes."""
    width = figure.get_size_inches()[0] + 2.2  # the legend is beside the grid
    lines = textwrap.wrap(describe(shared), int(width * 14))
    foot = head + 24
    corner = ax.get_position()

    def over(text: str, up: float, **look: Any) -> None:
        raised = offset_copy(figure.transFigure, figure, y=up, units="points")
        figure.text(corner.x0, corner.y1, text, transform=raised, va="bottom", **look)

    over("\n".join(lines), foot, fontsize=9, color="0.35")
    over(kind.title, foot + 12 * len(lines) + 4, fontsize=13, fontweight="bold")
