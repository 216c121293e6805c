"""Draws the figures of a report into files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.figures.plain_text import save
from reports.figures.scene_figures import FigureData, sketches
from reports.figures.scene_points import SceneLengths, scenes_of
from reports.page.answer_data import PageQuestion

MOST_FIGURES = 10  # with so many, no further machine is drawn; one takes about a second


@dataclass(frozen=True)
class Drawing:
    """A figure in two files, and what all its panels share."""

    title: str
    conditions: str
    png: Path
    svg: Path


@dataclass(frozen=True)
class Drawings:
    """The figures of a report, and in words what they leave out."""

    files: Sequence[Drawing] = ()
    left_out: Sequence[str] = ()


def draw_figures(asked: Sequence[PageQuestion], frame: pd.DataFrame, folder: Path) -> Drawings:
    """Draw the figures of the questions of a report into PNG and SVG files in `folder`.

    The first figures are those of the scene that the page shows first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = FigureData(frame)
    groups = groups_of(asked)
    files: list[Drawing] = []
    left_out = [] if groups else ["No figures: no case finished."]
    beyond: list[str] = []
    useless: list[str] = []
    for number, group in enumerate(groups, start=1):
        suffix = f"-{number}" if len(groups) > 1 else ""
        machine, decoding = group[0].scene.machine, ", decoding" * group[0].is_decoding
        if len(files) >= MOST_FIGURES:
            beyond.append(f"{machine}{decoding}")
            continue
        before = len(files)
        for sketch in sketches(data, group):
            png = folder / f"{sketch.name}{suffix}.png"
            svg = save(sketch.figure, png)
            files.append(Drawing(sketch.title, sketch.conditions, png, svg))
            if sketch.left_out:
                left_out.append(f"{sketch.title}, {machine}{decoding}: {sketch.left_out}")
        if len(files) == before:
            useless.append(f"{machine}{decoding}")
    if useless:
        left_out.append(f"No figures, as no method has a useful error: {'; '.join(useless)}.")
    if beyond:
        left_out.append(
            f"No figures, as a report stops after {MOST_FIGURES} or more: {'; '.join(beyond)}. "
            "A report of fewer runs draws them."
        )
    return Drawings(files, left_out)


def groups_of(asked: Sequence[PageQuestion]) -> list[Sequence[SceneLengths]]:
    """The scenes of each machine, calls apart from decoding, in the order of the figures."""
    groups: dict[tuple[str, bool], list[SceneLengths]] = {}
    for one in scenes_of(asked):
        groups.setdefault((one.scene.machine, one.is_decoding), []).append(one)
    return list(groups.values())
