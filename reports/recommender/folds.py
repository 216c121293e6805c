"""Parts of the rows that an evaluation leaves out, and the places that it then asks about.

A place is a scene, a length and a layer. Its rows are left out, and are the truth of the answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from reports.recommender.evidence import Evidence
from reports.recommender.layer_policy import Policy
from reports.recommender.scene import COLUMNS, Scene, evidence_rows

Kind = Literal["interior length", "longest length", "heads", "inputs", "layer", "machine"]


@dataclass(frozen=True)
class LeftOut:
    """A question without its limits."""

    scene: Scene
    seq_len: int
    layer: Policy


@dataclass(frozen=True)
class Fold:
    """A frame without one part of its rows, and the places of this part."""

    kind: Kind
    left_out: str
    kept: pd.DataFrame
    places: Sequence[LeftOut]


# The measured lengths of each layer of a scene, and of the worst of its layers where all of them
# are measured. Synthetic inputs have no layers, so their policy is "worst".
Lengths = Mapping[Policy, Sequence[int]]


def folds(frame: pd.DataFrame, evidence: Evidence) -> Iterator[Fold]:
    """All folds that leave something to answer from, one kind after another.

    Args:
        frame: all rows, as `read_runs` reads them.
        evidence: that of all rows.
    """
    measured = {scene: _lengths(evidence, scene) for scene in evidence.scenes()}
    yield from _interior_lengths(frame, measured)
    yield from _longest_lengths(frame, measured)
    yield from _heads(frame, measured, evidence)
    yield from _by_column("inputs", frame, measured)
    yield from _layers(frame, measured)
    yield from _by_column("machine", frame, measured)


def _lengths(evidence: Evidence, scene: Scene) -> Lengths:
    found: dict[Policy, list[int]] = defaultdict(list)
    layers = evidence.layers(scene)
    for seq_len in evidence.lengths(scene):
        own = evidence.layers(scene, seq_len)
        for layer in own:
            found[layer].append(seq_len)
        if own == layers and len(layers) != 1:
            found["worst"].append(seq_len)
    return found


Measured = Mapping[Scene, Lengths]


def _interior_lengths(frame: pd.DataFrame, measured: Measured) -> Iterator[Fold]:
    """One length of all scenes is left out; it is asked where others are on both sides."""
    for left_out in sorted({int(n) for n in frame["seq_len"]}):
        places = [
            LeftOut(scene, left_out, policy)
            for scene, lengths in measured.items()
            for policy, known in lengths.items()
            if left_out in known[1:-1]
        ]
        if places:
            kept = frame[frame["seq_len"] != left_out]
            yield Fold("interior length", str(left_out), kept, places)


def _longest_lengths(frame: pd.DataFrame, measured: Measured) -> Iterator[Fold]:
    """The longest length of each layer of each scene is left out."""
    rows = evidence_rows(frame)
    same = rows.groupby([*COLUMNS, "layer"], dropna=False)["seq_len"]
    kept = rows[rows["seq_len"] < same.transform("max")]
    places = [
        LeftOut(scene, known[-1], policy)
        for scene, lengths in measured.items()
        for policy, known in lengths.items()
        if len(known) > 1
        and (policy != "worst" or {known[-1]} == {own[-1] for own in lengths.values()})
    ]
    if places:
        yield Fold("longest length", "that of each scene", kept, places)


def _heads(frame: pd.DataFrame, measured: Measured, evidence: Evidence) -> Iterator[Fold]:
    """A scene is left out if others differ from it in the number of heads only."""
    for scene, lengths in measured.items():
        if len(evidence.heads(scene)) > 1:
            kept = frame[~_of_scene(frame, scene)]
            yield Fold("heads", str(scene.heads), kept, _all_places(scene, lengths))


def _by_column(
    kind: Literal["inputs", "machine"], frame: pd.DataFrame, measured: Measured
) -> Iterator[Fold]:
    """All scenes with one value of the column `kind` are left out."""
    for left_out in _several(getattr(scene, kind) for scene in measured):
        places = [
            place
            for scene, lengths in measured.items()
            if getattr(scene, kind) == left_out
            for place in _all_places(scene, lengths)
        ]
        yield Fold(kind, left_out, frame[frame[kind] != left_out], places)


def _layers(frame: pd.DataFrame, measured: Measured) -> Iterator[Fold]:
    """One layer of one kind of inputs is left out, and asked for."""
    pairs = sorted({(s.inputs, p) for s, own in measured.items() for p in own if p != "worst"})
    for left_out, layer in pairs:
        beside = (layer, "worst")
        places = [
            LeftOut(scene, seq_len, layer)
            for scene, lengths in measured.items()
            if scene.inputs == left_out
            for seq_len in lengths.get(layer, ())
            if any(seq_len in known for other, known in lengths.items() if other not in beside)
        ]
        if places:
            kept = frame[(frame["inputs"] != left_out) | (frame["layer"] != layer).fillna(True)]
            yield Fold("layer", f"{left_out} layer {layer}", kept, places)


def _all_places(scene: Scene, lengths: Lengths) -> list[LeftOut]:
    return [
        LeftOut(scene, seq_len, policy) for policy, known in lengths.items() for seq_len in known
    ]


def _of_scene(frame: pd.DataFrame, scene: Scene) -> pd.Series[bool]:
    same = pd.Series(True, frame.index)
    for column in COLUMNS:
        same &= frame[column] == getattr(scene, column)
    return same


def _several(values: Iterator[str]) -> list[str]:
    """The distinct values if there are two or more; else none."""
    found = sorted(set(values))
    return found if len(found) > 1 else []
