"""The scenes of a report in the order of the figures, and their measured points."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

import pandas as pd

from reports.metrics import ERROR, MEAN_OF_VALUES, MEMORY, STATE, TIME
from reports.page.answer_data import PageQuestion, default_question
from reports.recommender.candidate import Candidate
from reports.recommender.scene import COLUMNS, Scene
from reports.slices import describe

MEASURED = "measured"
FIRST = ("inputs", "layer")  # in a title
MOST_LAYERS = 4  # with their numbers in a title
FROM_ROWS = ("curve", "place", "knob", "setting", "is_default", "other_operator")


@dataclass(frozen=True)
class SceneLengths:
    """A scene with its candidates at each measured length."""

    scene: Scene
    lengths: Mapping[int, Sequence[Candidate]] = field(repr=False)

    @property
    def is_decoding(self) -> bool:
        """Whether the rows are steps of decoding."""
        return self.scene.direction == "decode"

    @property
    def fixed(self) -> dict[str, Any]:
        """The columns of the scene that need words, and the measured layers of captured inputs."""
        values = {name: getattr(self.scene, name) for name in COLUMNS}
        if self.scene.kv_heads == self.scene.heads:
            del values["kv_heads"]
        if self.scene.batch == 1:
            del values["batch"]
        if self.layers:
            values["layer"] = layer_words(self.layers)
        return values

    @property
    def layers(self) -> Sequence[Collection[int]]:
        """The measured layers of captured inputs, for each length; empty for synthetic inputs."""
        found = [
            {n for it in several for n in it.layer_errors} for several in self.lengths.values()
        ]
        return found if any(found) else ()

    def at(self, seq_len: int) -> SceneLengths:
        """The scene with this length alone."""
        return replace(self, lengths={seq_len: self.lengths[seq_len]})


def scenes_of(asked: Sequence[PageQuestion]) -> list[SceneLengths]:
    """The scenes of questions with the worst layer: the scene that the page shows first, then
    captured inputs, forward, causal, and many measured points before others."""
    lengths: dict[Scene, dict[int, Sequence[Candidate]]] = {}
    captured: dict[Scene, bool] = {}
    for question in asked:  # of each length the question with the worst layer is the first
        lengths.setdefault(question.scene, {}).setdefault(question.seq_len, question.candidates)
        captured[question.scene] = question.policy is not None
    if not asked:
        return []
    first = asked[default_question(asked)].scene

    def rank(scene: Scene) -> tuple[Any, ...]:
        return (
            scene != first,
            not captured[scene],
            scene.direction != "forward",
            not scene.causal,
            -sum(map(len, lengths[scene].values())),
        )

    return [SceneLengths(scene, lengths[scene]) for scene in sorted(lengths, key=rank)]


def points_of(one: SceneLengths, frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each measured candidate at each length, with the names of columns of the frame.

    Added are `excluded`, `is_exact` and `edge`: the error from which on a method is no better than
    the mean of the values or zeros.
    """
    found = [
        (n, it) for n, several in one.lengths.items() for it in several if it.evidence == MEASURED
    ]
    first = frame.loc[[it.rows[0] for _, it in found]].reset_index(drop=True)
    points = pd.DataFrame(
        {
            "seq_len": [n for n, _ in found],
            "heads": one.scene.heads,
            "label": [it.label for _, it in found],
            "variant": [it.variant for _, it in found],
            TIME.column: [it.time_ms for _, it in found],
            str(TIME.low): [it.time_low for _, it in found],
            str(TIME.high): [it.time_high for _, it in found],
            MEMORY.column: [it.memory_bytes for _, it in found],
            ERROR.column: [it.error for _, it in found],
            str(ERROR.low): [it.error_low for _, it in found],
            str(ERROR.high): [it.error_high for _, it in found],
            "excluded": [it.excluded for _, it in found],
            "is_exact": [it.is_exact for _, it in found],
            **{name: first[name] for name in FROM_ROWS},
            STATE.column: first[STATE.column].astype("float64"),
        }
    )
    # Of several layers, the largest error: a method with a smaller error may still be useless.
    rows = [row for _, it in found for row in it.rows]
    means = frame.loc[rows, ["seq_len", MEAN_OF_VALUES]].astype("float64")
    edges = means.groupby("seq_len")[MEAN_OF_VALUES].max().clip(upper=1.0).fillna(1.0)
    return points.assign(edge=points["seq_len"].map(edges))


def main_length(one: SceneLengths) -> int:
    """The longest length with at least half as many methods as the length with the most."""
    most = max(map(len, one.lengths.values()))
    return max(n for n, several in one.lengths.items() if 2 * len(several) >= most)


def is_useful(one: SceneLengths) -> bool:
    """Whether a method with a known error may be chosen at the main length."""
    there = one.lengths[main_length(one)]
    return any(not it.excluded and not isnan(it.error) for it in there)


def title_of(fixed: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """The values of a scene in words, without those of some columns; the inputs and their layer
    come first."""
    others = {name: value for name, value in fixed.items() if name not in (*FIRST, *without)}
    first = [str(fixed[name]) for name in FIRST if name in fixed and name not in without]
    return " · ".join(filter(None, (*first, describe(others))))


def layer_words(layers: Sequence[Collection[int]]) -> str:
    """In words, the measured layers of each of several points."""
    every = sorted({layer for several in layers for layer in several})
    if len(every) == 1:
        return f"layer {every[0]}"
    if any(set(several) != set(every) for several in layers):
        return f"worst of up to {len(every)} layers"
    if len(every) > MOST_LAYERS:
        return f"worst of {len(every)} layers"
    return f"worst of layers {', '.join(map(str, every))}"
