"""These implementations against public ones, under each setting of the memory allocator.

glibc's malloc may give memory back after every call and fetch it page by page for the next, which
decides races at long lengths; so a win counts if it holds with memory kept as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from bench.measurement import DIFFERS
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
    "seq_len",
)
ERROR = 2.0  # times the public one's own error that rounded scores may have
FASTER, SLOWER, UNDECIDED, ONE_SETTING = "faster", "slower", "undecided", "one setting only"


@dataclass(frozen=True)
class Duel:
    """The fastest of ours and the fastest public one, of one case under one setting."""

    ours: pd.Series[Any]
    public: pd.Series[Any]

    @property
    def ratio(self) -> str:
        """How many times as fast ours is."""
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
        """A difference counts if the middle halves of the calls do not overlap."""
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
    differs: str  # how the public one departs from the variant; empty if it computes the same

    @property
    def verdict(self) -> str:
        """What holds under all settings; on a GPU the allocator does not matter."""
        verdicts = {duel.verdict for duel in self.duels.values()}
        first = next(iter(self.duels.values())).ours
        if len(self.duels) < len(ALLOCATORS) and first["device"] == "cpu":
            return ONE_SETTING
        return verdicts.pop() if len(verdicts) == 1 else UNDECIDED


def races(frame: pd.DataFrame) -> list[Race]:
    """Every case that one of ours and a public one finished; of public code that computes the same
    first. None without runs to which implementations were added."""
    done = finished(frame)
    done = done[done["modules"] != ""]
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
                found.append(_race(group, duels, differs))
    return found


def by_attention(found: Sequence[Race]) -> list[tuple[Race, list[Race]]]:
    """The races of one attention and one kind of opponent together, behind the first of them."""
    groups = groupby(found, key=lambda race: (race.variant, race.settings, race.differs != ""))
    listed = [list(group) for _, group in groups]
    return [(group[0], group) for group in listed]


def standing(found: Sequence[Race]) -> str:
    """How the races against code that computes the same ended, in words; empty without any."""
    verdicts = [race.verdict for race in found if not race.differs]
    counts = [
        f"{verdicts.count(word)} {word}"
        for word in (FASTER, SLOWER, UNDECIDED, ONE_SETTING)
        if word in verdicts
    ]
    return ", ".join(counts)


def _duel(rows: pd.DataFrame) -> Duel | None:
    ours, others = rows[~rows["public"]], rows[rows["public"]]
    if others.empty:
        return None
    public = _fastest(others)
    # Rounded scores do not count where the public one is more exact, or where that is not known, as
    # it computes something else.
    near = ours["impl_error_rel_l2"] <= ERROR * public["impl_error_rel_l2"]
    ours = ours[~has_reduced_precision(ours) | near]
    return None if ours.empty else Duel(_fastest(ours), public)


def _fastest(rows: pd.DataFrame) -> pd.Series[Any]:
    return rows.iloc[int(rows[TIME.column].to_numpy().argmin())]


def _race(group: pd.DataFrame, duels: Mapping[str, Duel], differs: bool) -> Race:
    varied = ("direction", "causal", "dtype", "seq_len")
    first = group.iloc[0]
    reasons = {duel.public["reason"].removeprefix(DIFFERS) for duel in duels.values()}
    return Race(
        variant=first["variant"],
        settings=first["hyperparameters"],
        case=describe({name: first[name] for name in varied}),
        duels=duels,
        differs="; ".join(sorted(reasons)) if differs else "",
    )
