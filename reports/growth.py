"""Compares the measured growth of time and memory with the declared orders.

A curve is a method on one machine whose cases differ in length only, computed by one kernel. A
straight line is fitted to the logarithms of its longer half of lengths; the slope is the exponent
of n. The 95 % interval of the slope is that of Student's t distribution. It contains all deviations
from a straight line: noise, and a slope that still changes.

Short lengths have costs that do not grow, so a slope below the declared exponent says nothing. A
slope above it does: the method grows faster than declared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.schema.case import Case
from bench.schema.origin import settings_of
from reports.cost_orders import exponent
from reports.declared import Costs, costs
from reports.names import differing
from reports.rows import finished
from reports.slices import describe

FILE = "growth.csv"
Point = Mapping[Any, Any]  # a row, by its columns
LEAST = 3  # lengths that a fit needs
# Caches and the memory allocator let the time of linear methods grow as n^1.2 between 1024 and
# 16384 tokens on a CPU. Orders that are declared wrongly differ by 0.5 or more.
MARGIN = 0.2
# 97.5 % quantile of Student's t distribution with 1, 2, ... degrees of freedom; that of 8 for more.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)
COLUMNS = {"time": "time_ms_median", "memory": "peak_memory_bytes"}
FASTER, WITHIN, UNDECIDED = "grows faster than declared", "as declared or slower", "undecided"
SAME = ("machine", "implementation_used", *(c for c in Case.columns() if not c.endswith("_len")))
# The columns that tell the curves of a label apart.
SCENE = (
    "machine",
    "source",
    "direction",
    "causal",
    "dtype",
    "heads",
    "grouping",
    "head_dim",
    "batch",
    "call",
    "launching",
    "seed",
)


@dataclass(frozen=True)
class Fit:
    """The exponent of n and its 95 % interval."""

    slope: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """A declared cost, its exponent of n, and the measured growth."""

    quantity: str  # time or memory
    declared: str
    exponent: float
    fit: Fit

    @property
    def verdict(self) -> str:
        """`UNDECIDED` if the interval has exponents on both sides of the limit."""
        limit = self.exponent + MARGIN
        if self.fit.low > limit:
            return FASTER
        return WITHIN if self.fit.high <= limit else UNDECIDED

    @property
    def words(self) -> str:
        """The claim in words: `time grows as n^1.94 (1.85 to 2.03), declared n^1`."""
        slope, low, high, declared = map(
            show_exponent, (self.fit.slope, self.fit.low, self.fit.high, self.exponent)
        )
        return f"{self.quantity} grows as n^{slope} ({low} to {high}), declared n^{declared}"


@dataclass(frozen=True)
class GrowthCurve:
    """The claims of one method in one scene; `case` has the columns of `SAME`.

    `scene` names those of the columns `SCENE` that differ between curves.
    """

    label: str
    scene: str
    case: Mapping[str, Any]
    lengths: tuple[int, ...]
    claims: tuple[Claim, ...]

    @property
    def broken(self) -> list[Claim]:
        """The claims that the method grows faster than."""
        return [claim for claim in self.claims if claim.verdict == FASTER]


@dataclass(frozen=True)
class Audit:
    """The curves with enough lengths, those with a broken claim first, and the number of others."""

    curves: tuple[GrowthCurve, ...]
    too_short: int

    @property
    def broken(self) -> list[GrowthCurve]:
        """The curves that grow faster than declared."""
        return [curve for curve in self.curves if curve.broken]

    @property
    def others(self) -> list[GrowthCurve]:
        """All other curves."""
        return [curve for curve in self.curves if not curve.broken]

    @property
    def summary(self) -> str:
        """The number of curves that grow faster than declared, in words."""
        return f"{len(self.broken)} of {len(self.curves)} curves grow faster than declared"


def audit(frame: pd.DataFrame) -> Audit:
    """Compare every curve of finished cases with the declaration of its variant.

    Left out: decoding, because costs are declared for a pass over all tokens; a number of keys that
    is not the length; implementations that compute something else; variants without a declaration.
    """
    rows = finished(frame)
    rows = rows[(rows["direction"] != "decode") & (rows["key_len"] == rows["seq_len"])]
    declared = [name for name in rows["variant"].unique() if costs(name)]
    rows = rows[~differing(rows) & rows["variant"].isin(declared)]
    varying = [name for name in SCENE if rows[name].nunique() > 1]
    read = dict.fromkeys([*SAME, *varying, "label", "seq_len", "head_dim", *COLUMNS.values()])
    rows = rows[list(read)]
    groups = rows.groupby(list(SAME), sort=True, dropna=False)
    long = rows.assign(group=groups.ngroup())[groups["seq_len"].transform("nunique") >= LEAST]
    # Thousands of curves are faster as plain records than as frames.
    points: dict[int, dict[int, Point]] = {}
    for record in long.sort_values("group", kind="stable").to_dict("records"):
        points.setdefault(record["group"], {})[record["seq_len"]] = record
    curves = sorted(
        (_curve([own[n] for n in sorted(own)], varying) for own in points.values()),
        key=lambda curve: (not curve.broken, curve.label),
    )
    return Audit(tuple(curves), groups.ngroups - len(points))


def fit(lengths: Sequence[int], values: Sequence[float]) -> Fit:
    """The slope of the logarithm of positive values over that of at least three lengths."""
    x, y = np.log(np.asarray(lengths, float)), np.log(np.asarray(values, float))
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    freedom = len(x) - 2
    error = math.sqrt(rest @ rest / freedom / (x @ x))
    half = STUDENT[min(freedom, len(STUDENT)) - 1] * error
    return Fit(slope, slope - half, slope + half)


def show_exponent(value: float) -> str:
    """An exponent with at most two decimals."""
    return f"{round(value, 2) + 0.0:g}"


def table(found: Audit) -> pd.DataFrame:
    """A row for each curve and quantity, for growth.csv."""
    rows = [
        {
            **curve.case,
            "quantity": claim.quantity,
            "lengths": " ".join(map(str, curve.lengths)),
            "declared": claim.declared,
            "declared_exponent": claim.exponent,
            "exponent": claim.fit.slope,
            "exponent_low": claim.fit.low,
            "exponent_high": claim.fit.high,
            "verdict": claim.verdict,
        }
        for curve in found.curves
        for claim in curve.claims
    ]
    return pd.DataFrame(rows)


def _curve(rows: Sequence[Point], varying: Sequence[str]) -> GrowthCurve:
    upper = rows[-max(LEAST, math.ceil(len(rows) / 2)) :]
    first = upper[0]
    declared = costs(first["variant"])
    assert declared is not None  # rows of other variants are left out
    return GrowthCurve(
        label=first["label"],
        scene=describe({name: first[name] for name in varying}),
        case={name: first[name] for name in SAME},
        lengths=tuple(row["seq_len"] for row in upper),
        claims=tuple(_claims(upper, declared)),
    )


def _claims(rows: Sequence[Point], declared: Costs) -> Iterator[Claim]:
    lengths = [row["seq_len"] for row in rows]
    arguments = {**settings_of(rows[0]["hyperparameters"]), "head_dim": rows[0]["head_dim"]}
    letters = {
        letter: float(arguments[name])
        for letter, name in declared.letters.items()
        if str(arguments.get(name)).isdecimal()
    }
    for quantity, column in COLUMNS.items():
        values = [row[column] for row in rows]
        if all(pd.notna(value) and value > 0 for value in values):
            text = declared.time if quantity == "time" else declared.memory
            order = exponent(text, (lengths[0], lengths[-1]), letters)
            yield Claim(quantity, text, order, fit(lengths, values))
