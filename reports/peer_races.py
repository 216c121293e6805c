"""Compares our implementations with public ones, under each setting of the memory allocator.

glibc's malloc may return memory to the system after every call and request it page by page in the
next call. At long lengths this decides which implementation is faster. So a result counts if it
also holds when memory is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from bench.schema.outcome import DIFFERS
from reports.declared import has_reduced_precision
from reports.metrics import TIME, show_ms, show_ratio
from reports.names import differing
from reports.rows import finished
from reports.slices import describe

ALLOCATORS = ("default", "kept")
CASE = (
    "hardware",
    "variant",
    "hyperparameters",
    "source",
    "direction",
    "causal",
    "dtype",
    "heads",
    "head_dim",
    "batch",
    "grouping",
    "memory",
    "seed",
    "projections",
    "launch",
    "seq_len",
)
ERROR = 2.0  # the largest error of rounded scores, as a multiple of the public one's
FASTER, SLOWER, UNDECIDED = "faster", "slower", "undecided"
ONE_SETTING = "one allocator setting"


@dataclass(frozen=True)
class Duel:
    """Our fastest implementation and the fastest public one in a case, under one setting."""

    ours: pd.Series[Any]
    public: pd.Series[Any]

    @property
    def ratio(self) -> str:
        """The time of the public implementation divided by ours."""
        return show_ratio(self.public[TIME.column] / self.ours[TIME.column])

    @property
    def names(self) -> tuple[str, str]:
        """Both implementations with their times."""
        ours, public = (
            f"{row['implementation']} {show_ms(row[TIME.column])}" for row in self._rows
        )
        return ours, public

    @property
    def verdict(self) -> str:
        """The result for ours; undecided if the middle halves of the times overlap."""
        ours, public = self._rows
        if ours["time_ms_q3"] < public["time_ms_q1"]:
            return FASTER
        return SLOWER if public["time_ms_q3"] < ours["time_ms_q1"] else UNDECIDED

    @property
    def _rows(self) -> tuple[pd.Series[Any], pd.Series[Any]]:
        return self.ours, self.public


@dataclass(frozen=True)
class Race:
    """A case, and its duel under each allocator setting that was measured."""

    variant: str
    settings: str
    case: str
    duels: Mapping[str, Duel]
    differs: str  # how the public code differs from the variant; empty if it computes the same

    @property
    def verdict(self) -> str:
        """The verdict that holds under all settings; on a GPU one setting is enough."""
        verdicts = {duel.verdict for duel in self.duels.values()}
        first = next(iter(self.duels.values())).ours
        if len(self.duels) < len(ALLOCATORS) and first["device"] == "cpu":
            return ONE_SETTING
        return verdicts.pop() if len(verdicts) == 1 else UNDECIDED


def races(frame: pd.DataFrame) -> list[Race]:
    """Every case that one of our implementations and a public one finished.

    Races against public code that computes the same come first. The list is empty for runs to which
    no implementations were added.
    """
    done = finished(frame)
    done = done[done["modules"] != ""]
    machines = ["hardware"] if done["hardware"].nunique() > 1 else []
    varied = [*machines, "direction", "causal", "dtype", "seq_len"]
    found = []
    for differs in (False, True):
        rows = done[~done["public"] | (differing(done) == differs)]
        for _, group in rows.groupby(list(CASE), sort=True):
            duels = {
                setting: duel
                for setting in ALLOCATORS
                if (duel := _duel(group[group["allocator"] == setting]))
            }
            if duels:
                found.append(_race(group, duels, differs, varied))
    return found


def by_attention(found: Sequence[Race]) -> list[tuple[Race, list[Race]]]:
    """Groups of races with one attention and one kind of public code, each with its first race."""
    groups = groupby(found, key=lambda race: (race.variant, race.settings, race.differs != ""))
    listed = [list(group) for _, group in groups]
    return [(group[0], group) for group in listed]


def standing(found: Sequence[Race]) -> str:
    """The number of each verdict against code that computes the same, in words."""
    verdicts = [race.verdict for race in found if not race.differs]
    counts = [
        f"{verdicts.count(word)} {word}" for word in (FASTER, SLOWER, UNDECIDED) if word in verdicts
    ]
    if single := verdicts.count(ONE_SETTING):
        counts.append(
            f"{single} {'race' if single == 1 else 'races'} ran under one allocator setting; add "
            "the other run for a verdict"
        )
    return ", ".join(counts)


def _duel(rows: pd.DataFrame) -> Duel | None:
    ours, others = rows[~rows["public"]], rows[rows["public"]]
    if others.empty:
        return None
    public = _fastest(others)
    # Rounded scores do not count if the public implementation is more accurate, or if its error is
    # not known because it computes something else.
    near = ours["impl_error_rel_l2"] <= ERROR * public["impl_error_rel_l2"]
    ours = ours[~has_reduced_precision(ours) | near]
    return None if ours.empty else Duel(_fastest(ours), public)


def _fastest(rows: pd.DataFrame) -> pd.Series[Any]:
    return rows.iloc[int(rows[TIME.column].to_numpy().argmin())]


def _race(
    group: pd.DataFrame, duels: Mapping[str, Duel], differs: bool, varied: Sequence[str]
) -> Race:
    first = group.iloc[0]
    reasons = {duel.public["reason"].removeprefix(DIFFERS) for duel in duels.values()}
    return Race(
        variant=first["variant"],
        settings=first["hyperparameters"],
        case=describe({name: first[name] for name in varied}),
        duels=duels,
        differs="; ".join(sorted(reasons)) if differs else "",
    )
