"""Texts in figures are names from files: they are drawn as they are, in any script."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# For letters that the first one lacks; those that are installed are used.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "Yu Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
)
DOTS_PER_INCH = 150
PADDING = 0.1  # inches around the content


@cache
def families() -> list[str]:
    """The fonts of figures that are installed here."""
    installed = set(font_manager.get_font_names())
    return [name for name in FONTS if name in installed]


@contextmanager
def plain_text() -> Iterator[None]:
    """Draw dollar signs as they are, and a box for a letter that no font has.

    Needed where texts are made and where a figure is saved. May decorate a function. An SVG file
    has texts as text, and the same content each time.
    """
    with (
        matplotlib.rc_context(
            {
                "text.parse_math": False,
                "font.family": families(),
                "svg.fonttype": "none",
                "svg.hashsalt": "attention",
            }
        ),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@plain_text()
def save(figure: Figure, png: Path) -> Path:
    """Write a figure, cropped to its content, to a PNG file and to an SVG file beside it.

    The figure has `DOTS_PER_INCH`: at other resolutions its texts would not be as wide.

    Returns:
        The path of the SVG file.
    """
    svg = png.with_suffix(".svg")
    renderer = FigureCanvasAgg(figure).get_renderer()
    box = figure.get_tightbbox(renderer).padded(PADDING)
    figure.savefig(png, dpi=DOTS_PER_INCH, bbox_inches=box)
    figure.savefig(svg, bbox_inches=box, metadata={"Date": None, "Creator": None})
    return svg
