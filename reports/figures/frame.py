"""The parts of every figure: a grid of axes of fixed size, a heading, a legend and notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.transforms import offset_copy

from reports.figures.plain_text import DOTS_PER_INCH, families
from reports.figures.style import Styles

COLUMNS = 3  # panels side by side
TITLE, TEXT, SMALL = 11, 8, 7  # sizes of text, in points
LETTER = 0.55  # width of a letter, in parts of its size
LINE = 1.3  # height of a line, in parts of the size of its text
# Of a legend, in points: the width of a line, the space after it, the space between columns.
HANDLE, PAD, GAP = 20, 4, 12
INK, SOFT = "0.1", "0.35"
LOOK: dict[Any, Any] = {
    "axes.edgecolor": "0.6",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.91",
    "grid.linewidth": 0.7,
    "xtick.color": "0.6",
    "ytick.color": "0.6",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
}


@dataclass(frozen=True)
class PanelSize:
    """The size of the axes and of the space between them, in inches."""

    width: float
    height: float
    across: float
    down: float


Share = Literal["none", "all", "row", "col"]


def grid(
    rows: int, columns: int, size: PanelSize, *, sharex: Share, sharey: Share
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with hidden axes; `heading` and `foot` add texts above and below them."""
    whole = (columns * (size.width + size.across), rows * (size.height + size.down))
    figure = Figure(figsize=whole, dpi=DOTS_PER_INCH)
    with matplotlib.rc_context(LOOK | {"font.family": families()}):
        made = figure.subplots(
            rows,
            columns,
            sharex=sharex,
            sharey=sharey,
            squeeze=False,
            gridspec_kw={
                "left": 0,
                "bottom": 0,
                "right": 1 - size.across / whole[0],
                "top": 1 - size.down / whole[1],
                "wspace": size.across / size.width,
                "hspace": size.down / size.height,
            },
        )
    for ax in made.flat:
        ax.set_visible(False)
        ax.tick_params(labelsize=TEXT)
    return figure, [list(line) for line in made]


def wrapped(text: str, width: float, size: float) -> list[str]:
    """The lines of a text of a size in points that fit into a width in inches.

    No line ends within the parts between middle dots.
    """
    most = int(width * 72 / (LETTER * size))
    if " · " in text:
        text = "\xa0· ".join(part.replace(" ", "\xa0") for part in text.split(" · "))
    return [line.replace("\xa0", " ") for line in textwrap.wrap(text, most)]


def panel_title(ax: Axes, text: str, size: PanelSize) -> int:
    """Write a title above the axes; return the number of its lines."""
    lines = wrapped(text, size.width, TEXT)
    ax.set_title("\n".join(lines), loc="left", fontsize=TEXT, color=INK, pad=4)
    return len(lines)


def column_title(ax: Axes, text: str, *, lines: int) -> None:
    """Write what a column of panels shows, above `lines` lines of a panel's title."""
    ax.annotate(
        text,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 4 + LINE * TEXT * lines),
        textcoords="offset points",
        fontsize=TEXT,
        fontweight="bold",
        color=INK,
    )


def heading(figure: Figure, title: str, conditions: str, *, lines: int = 1) -> None:
    """Write the title and what all panels share, above `lines` lines of a panel's title."""
    width = figure.get_size_inches()[0]
    under = wrapped(conditions, width, TEXT)
    corner = figure.axes[0].get_position()
    foot = 10 + LINE * TEXT * lines
    _text(figure, corner.x0, corner.y1, foot, "\n".join(under), fontsize=TEXT, color=SOFT)
    head = foot + LINE * TEXT * len(under) + 3
    _text(figure, corner.x0, corner.y1, head, title, fontsize=TITLE, fontweight="bold", color=INK)


def foot(
    figure: Figure, handles: Sequence[Artist], notes: Iterable[str], *, below: float = 34
) -> None:
    """Write a legend, and notes under it, `below` points under the axes."""
    width = figure.get_size_inches()[0]
    if handles:
        columns = _columns([str(handle.get_label()) for handle in handles], width * 72)
        figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=offset_copy(figure.transFigure, figure, y=-below, units="points"),
            borderpad=0,
            borderaxespad=0,
            frameon=False,
            fontsize=TEXT,
            handlelength=HANDLE / TEXT,
            columnspacing=GAP / TEXT,
            handletextpad=PAD / TEXT,
            labelspacing=0.3,
            ncols=columns,
        )
        below += 1.4 * TEXT * -(-len(handles) // columns) + 5
    lines = [line for note in notes if note for line in wrapped(note, width, SMALL)]
    _text(figure, 0, 0, -below, "\n".join(lines), fontsize=SMALL, color=SOFT, va="top")


def _columns(names: Sequence[str], width: float) -> int:
    """The most columns of a legend that fit into a width in points."""
    renderer = RendererAgg(1, 1, DOTS_PER_INCH)
    font = FontProperties(family=families(), size=TEXT)
    pixels = [renderer.get_text_width_height_descent(it, font, ismath=False)[0] for it in names]
    wide = np.array(pixels) * 72 / DOTS_PER_INCH
    for columns in range(len(names), 1, -1):
        # Matplotlib fills the columns one after the other; the first ones have one entry more.
        longest = [float(part.max()) for part in np.array_split(wide, columns)]
        if columns * (HANDLE + PAD + GAP) - GAP + sum(longest) <= width:
            return columns
    return 1


def entries(names: Mapping[str, str], styles: Styles, *, line: bool = True) -> list[Artist]:
    """Entries of a legend: each label or curve with its name."""
    return [styles[key].handle(name, line=line) for key, name in names.items()]


def _text(figure: Figure, x: float, y: float, up: float, text: str, **look: Any) -> None:
    raised = offset_copy(figure.transFigure, figure, y=up, units="points")
    figure.text(x, y, text, transform=raised, **{"va": "bottom", "linespacing": LINE - 0.1, **look})
