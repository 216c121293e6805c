"""The errors of rows beside those of baselines of the same budget, as columns for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.schema.measurement import Measurement
from reports.baselines import FLOOR, KEYS, MEAN, RANDOM, ROUNDING, names_of_unbeaten
from reports.metrics import ERROR, show_count, show_error, show_number, show_percent
from reports.page.packing import Table, rounded
from reports.rows import Runs

BEATEN = "beaten"  # the baselines with no larger error, in words


@dataclass(frozen=True)
class AccuracyColumn:
    """A column of numbers; the columns of a group share a heading."""

    title: str
    name: str
    group: str
    show: Callable[[float], str] = show_error
    meaning: str = ""

    @property
    def about(self) -> str:
        """The meaning of the column, in a sentence."""
        return self.meaning or Measurement.columns()[self.name].description


_BUDGET, _ROUNDING = "error of baselines of the same budget", "rounding"
_HEADS = "error of single heads"
BEST, WORST = "best_head", "worst_head"
_ERROR, _WEIGHTS, _GRADIENTS = "against exact attention", "weights", "error of gradients"
COLUMNS = (
    AccuracyColumn("keys", KEYS, _BUDGET, show_number),
    AccuracyColumn("mean of V", MEAN, _BUDGET),
    AccuracyColumn("random keys", RANDOM, _BUDGET),
    AccuracyColumn("top keys", "top_keys_error_rel_l2", _BUDGET),
    AccuracyColumn("median row", "approx_error_median_row", _ERROR),
    AccuracyColumn("worst row", "approx_error_worst_row", _ERROR),
    AccuracyColumn("cosine", "approx_cosine", _ERROR, show_number),
    AccuracyColumn("approximation", "target_error_rel_l2", _ERROR),
    AccuracyColumn("substitution", "substitution_error_rel_l2", _ERROR),
    AccuracyColumn("std of draws", "approx_error_seed_std", _ERROR),
    AccuracyColumn("draws", "approx_error_seeds", _ERROR, show_count),
    AccuracyColumn("best head", BEST, _HEADS, meaning="the smallest error of a head"),
    AccuracyColumn("worst head", WORST, _HEADS, meaning="the largest error of a head"),
    AccuracyColumn("kept mass", "mass_recall", _WEIGHTS, show_percent),
    AccuracyColumn("top-64 recall", "top64_recall", _WEIGHTS, show_percent),
    AccuracyColumn("total variation", "total_variation", _WEIGHTS),
    AccuracyColumn("query", "grad_query_error_rel_l2", _GRADIENTS),
    AccuracyColumn("key", "grad_key_error_rel_l2", _GRADIENTS),
    AccuracyColumn("value", "grad_value_error_rel_l2", _GRADIENTS),
    AccuracyColumn("implementation", ROUNDING, _ROUNDING),
    AccuracyColumn("floor of dtype", FLOOR, _ROUNDING),
)


def with_heads(runs: Runs) -> pd.DataFrame:
    """The rows of runs with the errors of their best and worst head, where these are known."""
    heads = runs.per_head.groupby("case")[ERROR.column].agg(["min", "max"])
    both = heads[heads["min"] < heads["max"]].astype("float64")
    return runs.frame.assign(**{BEST: both["min"], WORST: both["max"]})


def known(frame: pd.DataFrame) -> list[AccuracyColumn]:
    """The columns in which a row has a number."""
    return [column for column in COLUMNS if frame[column.name].notna().any()]


def accuracy_table(frame: pd.DataFrame) -> Table:
    """The known columns for each row, with three digits, and the column `beaten`.

    `frame` is that of `with_heads`.
    """
    measured = frame[frame[ERROR.column].notna()]
    names = [", ".join(words) for words in names_of_unbeaten(measured)]
    beaten = pd.Series(names, measured.index, dtype="str").reindex(frame.index, fill_value="")
    numbers = {column.name: rounded(frame[column.name], bits=12) for column in known(frame)}
    return {BEATEN: beaten, **numbers}


def accuracy_facts(frame: pd.DataFrame) -> list[Mapping[str, Any]]:
    """The title, the group, the unit and the meaning of each known column."""
    return [
        {
            "name": column.name,
            "title": column.title,
            "group": column.group,
            "show": column.show.__name__,
            "about": column.about,
        }
        for column in known(frame)
    ]
