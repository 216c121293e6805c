"""Styles of lines: colour and marker by variant, dash by setting. Exact attention is black. A curve
has the style of its first setting. Markers of a requested implementation are hollow.

Colours and markers are assigned by the place of a variant among those that this version declares,
so a variant looks the same in every report. Other variants get them by their sorted names in the
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

import pandas as pd
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.lines import Line2D

from reports.declared import declared_variants, exact_variant

# Of 18 colours, each two differ for readers with normal, protanopic and deuteranopic vision (at
# least 0.1, 0.056 and 0.056 in the colour space OKLab, simulated by Machado et al. 2009), and each
# has a contrast of at least 3 to white. Neighbours in this order differ most.
PALETTE = (
    *("#0028a0", "#f05000", "#c800f0", "#28a0a0", "#780000", "#7850a0", "#005050", "#5028f0"),
    *("#a05028", "#f02878", "#007850", "#502878", "#0078c8", "#a078f0", "#00a028", "#a02878"),
    *("#7800c8", "#7878a0"),
)
# Similar markers are not neighbours.
MARKERS = ("o", "s", "^", "h", "D", "v", "8", "P", "<", "p", "d", "H", ">")
AUTO = "auto"  # no implementation was requested
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
    is_hollow: bool = False

    @property
    def face(self) -> str:
        """The colour inside a marker."""
        return "white" if self.is_hollow else self.color

    @property
    def edge(self) -> str:
        """The colour around a marker."""
        return self.color if self.is_hollow else "white"

    def handle(self, label: str, *, line: bool = True) -> Line2D:
        """The entry of the label in a legend."""
        return Line2D(
            [],
            [],
            color=self.color,
            marker=self.marker,
            dashes=self.dashes or (None, None),
            linewidth=self.width if line else 0,
            markerfacecolor=self.face,
            markeredgecolor=self.edge,
            markersize=5.5,
            label=label,
        )


Styles = Mapping[str, Style]


def styles(frame: pd.DataFrame) -> dict[str, Style]:
    """The style of every label and every curve of a frame."""
    declared = [name for name in declared_variants() if name != exact_variant()]
    others = sorted(set(frame["variant"]) - {*declared, exact_variant()})
    colors = _colors(others) | dict(zip(declared, cycle(PALETTE), strict=False))
    markers = dict(zip([exact_variant(), *declared], cycle(MARKERS), strict=False))
    markers |= dict(zip(others, cycle(MARKERS), strict=False))
    result: dict[str, Style] = {}
    names = ["variant", "curve", "place", "label", "implementation"]
    every = frame[names].drop_duplicates(names[:-1]).sort_values(names)
    for variant, rows in every.groupby("variant", sort=True):
        parts = zip(rows["curve"], rows["label"], rows["implementation"], strict=True)
        for setting, (curve, label, implementation) in enumerate(parts):
            result[label] = Style(
                color=colors.get(str(variant), "black"),
                marker=markers[str(variant)],
                dashes=DASHES[setting % len(DASHES)],
                width=2.6 if variant == exact_variant() else 1.6,
                is_hollow=implementation != AUTO,
            )
            result.setdefault(curve, result[label])
    return result


def _colors(variants: list[str]) -> dict[str, str]:
    """Hues around the colour circle, with alternating lightness, for variants of other versions."""
    values = (0.75, 0.5, 0.62)
    return {
        name: to_hex(tuple(hsv_to_rgb((place / len(variants), 0.9, values[place % len(values)]))))
        for place, name in enumerate(variants)
    }
