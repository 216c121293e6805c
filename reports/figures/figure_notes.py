"""In words, what a figure does not draw: useless methods, failed cases, other scenes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from bench.schema.outcome import Status
from reports.figures.scene_points import SceneLengths, title_of
from reports.metrics import show_count
from reports.names import OTHER_OPERATOR
from reports.recommender.scene import COLUMNS, Scene
from reports.rows import OK
from reports.slices import common

MOST_NAMED = 8  # methods in a note
MOST_SCENES = 4


def undrawn_scenes(group: Sequence[SceneLengths], shown: int) -> str:
    """The scenes of a group after the first `shown` ones; empty if there is none."""
    shared = common([one.fixed for one in group])
    names = [title_of(one.fixed, without=shared) for one in group[shown:]]
    return f"Scenes that are not drawn: {listed(names, '; ', MOST_SCENES)}." if names else ""


def useless_names(points: pd.DataFrame) -> list[str]:
    """In words, the methods and settings that are no better than a baseline, and those of another
    operator; methods without any better setting come first."""
    of_softmax = points[~points["other_operator"]]
    found = []
    partly = []
    for variant, own in of_softmax.groupby("variant", sort=True):
        bad = own[own["excluded"] != ""]["label"].unique()
        if len(bad) == own["label"].nunique():
            found.append(str(variant))
        elif len(bad):
            partly.append(f"{variant} ({len(bad)} of {own['label'].nunique()} settings)")
    others = sorted(points.loc[points["other_operator"], "variant"].unique())
    return [
        f"no better than a baseline: {', '.join([*found, *partly])}" if found or partly else "",
        f"{OTHER_OPERATOR}: {', '.join(others)}" if others else "",
    ]


class Failures:
    """The rows that did not finish, by scene."""

    def __init__(self, frame: pd.DataFrame) -> None:
        failed = frame[frame["status"] != OK]
        groups: Any = failed.groupby(list(COLUMNS))
        self._by_scene = {Scene(*key): rows for key, rows in groups}

    def words(self, scenes: Iterable[SceneLengths]) -> str:
        """The methods of these scenes that did not finish, by status; empty if there is none."""
        kept = [self._by_scene[one.scene] for one in scenes if one.scene in self._by_scene]
        if not kept:
            return ""
        parts = []
        for status, rows in pd.concat(kept).groupby("status", sort=True):
            rows = rows.assign(method=rows["variant"] + _asked(rows["implementation"]))
            names = []
            for method, own in rows.groupby("method", sort=True):
                at = ", ".join(show_count(n) for n in sorted(own["seq_len"].unique()))
                names.append(str(method) if status == Status.UNSUPPORTED else f"{method} at {at}")
            parts.append(f"{str(status).replace('_', ' ')}: {listed(names, '; ')}")
        return f"Did not finish — {'. '.join(parts)}."


def _asked(implementations: pd.Series[str]) -> pd.Series[str]:
    return ("/" + implementations).mask(implementations == "auto", "")


def listed(names: Sequence[str], between: str = ", ", most: int = MOST_NAMED) -> str:
    """The first names, and the number of the others."""
    more = f"{between}and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more
