"""The gallery of the page: the attention weights of each method beside those of exact attention.

`make docs` draws the pictures and measures the facts about them. Drawing them for each page would
import torch and read a capture.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
from matplotlib.colors import to_hex

from bench.schema.validation import read_json
from reports.declared import declared_variants, exact_variant
from reports.figures.style import styles

FOLDER = Path(__file__).parents[1] / "patterns"
FACTS = "patterns.json"


class Facts(TypedDict):
    """Measurements on the weights of one method. The shares are means over the queries."""

    settings: str  # `variant name=value ...`, without defaults
    causal: bool
    share_of_pairs: float  # pairs of a query and a visible key with a weight other than 0
    exact_weight: float  # share of the exact weights that lies on these pairs
    common_weight: float | None  # sum over the keys of the smaller weight; None: see `result`


class PatternFacts(TypedDict):
    """The content of patterns.json."""

    tokens: int
    source: str  # the head whose queries and keys were used
    variants: dict[str, Facts]


@dataclass(frozen=True)
class Picture:
    """A picture, and the texts about it."""

    variant: str
    color: str
    source: str  # data URL
    settings: str
    result: str  # one sentence with the measured shares


@dataclass(frozen=True)
class Gallery:
    """The pictures of the methods of a report; `missing` are the methods without one."""

    tokens: int
    head: str
    pictures: Sequence[Picture]
    missing: Sequence[str]


def gallery(frame: pd.DataFrame, folder: Path = FOLDER) -> Gallery:
    """The gallery of the methods of a frame, in the order of their colours.

    Exact attention is the left side of each picture, so it has none of its own.
    """
    found: dict[str, Any] = read_facts(folder)
    own = set(frame["variant"]) - {exact_variant()}
    order = [it for it in declared_variants() if it in own]
    order += sorted(own.difference(order))
    drawn = [it for it in order if it in found["variants"] and picture_file(it, folder).is_file()]
    labels = frame.drop_duplicates("variant").set_index("variant")["label"]
    looks = styles(frame)
    pictures = [
        Picture(
            variant=name,
            color=to_hex(looks[str(labels[name])].color),
            source=_data_url(picture_file(name, folder)),
            settings=found["variants"][name]["settings"],
            result=result(name, found["variants"][name]),
        )
        for name in drawn
    ]
    missing = [it for it in order if it not in drawn]
    return Gallery(found["tokens"], found["source"], pictures, missing)


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts about the pictures of a folder; those of no method if it has no such file."""
    file = folder / FACTS
    return (
        read_json(file, PatternFacts)
        if file.is_file()
        else {"tokens": 0, "source": "", "variants": {}}
    )


def picture_file(variant: str, folder: Path = FOLDER) -> Path:
    """The file with the picture of a variant."""
    return folder / f"{variant}.png"


def result(variant: str, facts: Facts) -> str:
    """One sentence with the shares that were measured.

    The common weight is a share only if the weights of the method are not negative and sum to 1.
    """
    pairs = "causal pairs of query and key" if facts["causal"] else "pairs of query and key"
    common = "its weights can be negative, or sum to another number than 1"
    if (share := facts["common_weight"]) is not None:
        common = f"{share:.0%} of the weight is as in exact attention"
    if facts["share_of_pairs"] == 1:
        return f"{variant} gives a weight to all {pairs}; {common}."
    return (
        f"{variant} gives a weight to {facts['share_of_pairs']:.0%} of the {pairs}, which hold "
        f"{facts['exact_weight']:.0%} of the exact weight; {common}."
    )


def _data_url(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")
