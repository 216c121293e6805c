"""The figures of the scenes of one machine: which scenes, methods and words they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import pandas as pd
from matplotlib.figure import Figure

from reports.figures import against_count, crossover, frontier
from reports.figures.against_count import MOST_ROWS, CountRow, lines_of
from reports.figures.crossover import CrossoverColumn
from reports.figures.figure_notes import Failures, undrawn_scenes, useless_names
from reports.figures.frame import COLUMNS
from reports.figures.frontier import FrontierPanel
from reports.figures.head_families import head_families
from reports.figures.scene_points import (
    SceneLengths,
    is_useful,
    main_length,
    points_of,
    title_of,
)
from reports.figures.style import Styles, styles
from reports.metrics import ERROR, TIME, TOKEN_TIME
from reports.page.crossover_lengths import crossovers
from reports.recommender.scene import Scene
from reports.slices import common

Scenes = Sequence[SceneLengths]
MOST_PANELS = 9
MOST_METHODS = 14  # in a figure of crossovers
CROSSOVER = (
    "The default setting of each method. A method is faster if its whole time interval is below "
    "that of the fastest exact implementation, and smaller if its peak memory is below the "
    "smallest one. Where it is no better than a baseline, neither is drawn."
)
WIDTH = "With a fixed width, all heads together are that wide."


@dataclass(frozen=True)
class Sketch:
    """A figure that is not saved yet; `left_out` says which scenes it does not show."""

    name: str
    title: str
    conditions: str
    figure: Figure
    left_out: str = ""


class FigureData:
    """The rows of a report as figures need them."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._points: dict[Scene, pd.DataFrame] = {}
        self.styles: Styles = styles(frame)
        self.failures = Failures(frame)

    def points(self, one: SceneLengths) -> pd.DataFrame:
        """The measured points of a scene."""
        if one.scene not in self._points:
            self._points[one.scene] = points_of(one, self._frame)
        return self._points[one.scene]


def sketches(data: FigureData, group: Sequence[SceneLengths]) -> Iterator[Sketch]:
    """The figures of scenes of one machine, which are all of decoding or not.

    Scenes without a useful method have no panels.
    """
    useful = [one for one in group if is_useful(one)]
    rest = [one for one in group if one not in useful]
    if useful:
        yield _frontier(data, useful, rest)
    if several := [one for one in useful if len(one.lengths) > 1]:
        others = [one for one in rest if len(one.lengths) > 1]
        yield _lengths(data, several, others)
        yield from _crossover(data, several, others)
    yield from _heads(data, useful)


def _frontier(data: FigureData, useful: Scenes, others: Scenes) -> Sketch:
    shown = useful[:MOST_PANELS]
    fixed = [{**one.at(main_length(one)).fixed, "seq_len": main_length(one)} for one in shown]
    shared = common(fixed)
    panels = []
    for one, values in zip(shown, fixed, strict=True):
        points = data.points(one)
        points = points[points["seq_len"] == values["seq_len"]]
        edge = float(points["edge"].max())
        panels.append(
            FrontierPanel(title_of(values, without=shared), points, edge, useless_names(points))
        )
    more = undrawn_scenes([*useful, *others], len(shown))
    title = "Error against time"
    figure = frontier.draw(
        title,
        title_of(shared),
        panels,
        TOKEN_TIME if useful[0].is_decoding else TIME,
        ERROR,
        data.styles,
        [data.failures.words(shown), more],
    )
    return Sketch("frontier", title, title_of(shared), figure, more)


def _lengths(data: FigureData, several: Scenes, others: Scenes) -> Sketch:
    shown = several[:MOST_ROWS]
    is_decoding = several[0].is_decoding
    title = "Time, memory and error against length"
    if is_decoding:
        title = "Decoding: time per token, state and error against length"
    shared = common([one.fixed for one in shown])
    more = undrawn_scenes([*several, *others], len(shown))
    figure = against_count.draw(
        title,
        title_of(shared),
        [CountRow(title_of(one.fixed, without=shared), data.points(one)) for one in shown],
        "seq_len",
        "tokens so far" if is_decoding else "sequence length",
        data.styles,
        [data.failures.words(shown), more],
        is_decoding=is_decoding,
    )
    return Sketch("length", title, title_of(shared), figure, more)


def _crossover(data: FigureData, several: Scenes, others: Scenes) -> Iterator[Sketch]:
    """The figure, unless no method is useful."""
    shown = several[:COLUMNS]
    shared = common([one.fixed for one in shown])
    points = [data.points(one).assign(row=number) for number, one in enumerate(shown)]
    lines = lines_of(pd.concat(points, ignore_index=True), "seq_len", MOST_METHODS)
    columns = [
        CrossoverColumn(
            title_of(one.fixed, without=shared),
            [it for it in crossovers(one.lengths) if it.label in lines.names],
        )
        for one in shown
    ]
    first: dict[str, float] = {}
    for it in (it for column in columns for it in column.found):
        wins = [n for n, better in it.faster.items() if better and it.useful[n]]
        first[it.label] = min([first.get(it.label, inf), *wins])
    if not first:
        return
    title = "Lengths at which a method is better than exact attention"
    more = undrawn_scenes([*several, *others], len(shown))
    figure = crossover.draw(
        title,
        title_of(shared),
        columns,
        {label: lines.names[label] for label in sorted(first, key=lambda it: (first[it], it))},
        data.styles,
        [CROSSOVER, lines.note, more],
    )
    yield Sketch("crossover", title, title_of(shared), figure, more)


def _heads(data: FigureData, group: Scenes) -> Iterator[Sketch]:
    """The figure, if several numbers of heads were measured."""
    families = head_families(group)
    if not families:
        return
    shown = families[:MOST_ROWS]
    fixed = [{**family.fixed, "seq_len": family.seq_len} for family in shown]
    shared = common(fixed)
    rows = []
    for family, values in zip(shown, fixed, strict=True):
        points = pd.concat([data.points(one) for one in family.scenes], ignore_index=True)
        at = points[points["seq_len"] == family.seq_len]
        rows.append(CountRow(title_of(values, without=shared), at))
    more = len(families) - MOST_ROWS
    left_out = f"{more} more groups of scenes are not drawn." if more > 0 else ""
    title = "Time, memory and error against the number of heads"
    figure = against_count.draw(
        title,
        title_of(shared),
        rows,
        "heads",
        "query heads",
        data.styles,
        [WIDTH if any("width" in it for it in fixed) else "", left_out],
        is_decoding=group[0].is_decoding,
    )
    yield Sketch("heads", title, title_of(shared), figure, left_out)
