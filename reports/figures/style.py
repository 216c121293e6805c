"""Styles of lines: colour by variant, dash by setting, marker by both. Exact attention is black.
A curve has the style of its first setting.

Styles are assigned by the sorted names in the data. So a variant looks the same in all figures of a
report, and this file needs no list of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D

from reports.declared import exact_variant

# Similar markers are not neighbours.
MARKERS = ("o", "s", "^", "h", "D", "v", "8", "P", "<", "p", "d", "H", ">")
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4, 1.5),
    (1.2, 1.2),
    (6, 1.5, 1.5, 1.5),
    (2.5, 1, 1, 1, 1, 1),
)


@dataclass(frozen=True)
class Style:
    """The look of one label."""

    color: str
    marker: str
    dashes: tuple[float, ...]
    width: float

    def handle(self, label: str, *, line: bool = True) -> Line2D:
        """The entry of the label in a legend."""
        return Line2D(
            [],
            [],
            color=self.color,
            marker=self.marker,
            dashes=self.dashes or (None, None),
            linewidth=self.width if line else 0,
            markeredgecolor="white",
            markersize=7,
            label=label,
        )


Styles = Mapping[str, Style]


def styles(frame: pd.DataFrame) -> dict[str, Style]:
    """The style of every label and every curve of a frame."""
    colors = _colors(sorted(set(frame["variant"]) - {exact_variant()}))
    result: dict[str, Style] = {}
    names = ["variant", "curve", "place", "label"]
    every = frame[names].drop_duplicates().sort_values(names)
    curves = every["curve"].drop_duplicates()
    first = dict(zip(curves, range(len(curves)), strict=True))
    for variant, rows in every.groupby("variant", sort=True):
        pairs = zip(rows["curve"], rows["place"], rows["label"], strict=True)
        for setting, (curve, place, label) in enumerate(pairs):
            result[label] = Style(
                color=colors.get(str(variant), "black"),
                marker=MARKERS[(first[curve] + place) % len(MARKERS)],
                dashes=DASHES[setting % len(DASHES)],
                width=2.6 if variant == exact_variant() else 1.6,
            )
            result.setdefault(curve, result[label])
    return result


def _colors(variants: list[str]) -> dict[str, str]:
    """Hues around the colour circle; if there are many, neighbours also differ in lightness."""
    lightness = (0.55,) if len(variants) <= 8 else (0.56, 0.38, 0.7)
    circles = [sns.husl_palette(len(variants), s=0.95, l=level) for level in lightness]
    chosen = [circles[i % len(circles)][i] for i in range(len(variants))]
    return dict(zip(variants, sns.color_palette(chosen).as_hex(), strict=True))
