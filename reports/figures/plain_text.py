"""Texts in figures are names from files: they are drawn as they are, in any script."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib
from matplotlib import font_manager

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


@cache
def families() -> list[str]:
    """The fonts of figures that are installed here."""
    installed = set(font_manager.get_font_names())
    return [name for name in FONTS if name in installed]


@contextmanager
def plain_text() -> Iterator[None]:
    """Draw dollar signs as they are, and a box for a letter that no font has.

    Needed where texts are made and where a figure is saved. May decorate a function.
    """
    with (
        matplotlib.rc_context({"text.parse_math": False, "font.family": families()}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
