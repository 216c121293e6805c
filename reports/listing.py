"""The columns of the table of all cases on the page, and the reasons why cases did not finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.metrics import TABLE, Metric
from reports.names import OTHER_OPERATOR
from reports.rows import OK
from reports.slices import describe

# Columns of the case that the table shows if they vary, in this order.
CASE = (
    "machine",
    "source",
    "dtype",
    "direction",
    "causal",
    "batch",
    "heads",
    "grouping",
    "seq_len",
    "memory",
    "head_dim",
    "seed",
    "projections",
    "launching",
)
TITLES = {
    "hyperparameters": "settings",
    "source": "inputs",
    "grouping": "kv heads",
    "memory": "keys",
    "seq_len": "length",
    "launching": "launch",
}
MOST_CHOICES = 40  # a column with more different values has no menu to filter by
MOST_REASONS = 40


@dataclass(frozen=True)
class ListedColumn:
    """A column of the table; with `choices`, the page has a menu that filters by it.

    The values of a column with a metric are numbers, otherwise words. `low` and `high` are the
    interval of the numbers.
    """

    title: str
    values: pd.Series[Any]
    choices: tuple[str, ...] = ()
    metric: Metric | None = None
    low: pd.Series[Any] | None = None
    high: pd.Series[Any] | None = None


@dataclass(frozen=True)
class Listing:
    """The table; `constant` names the values that all rows share."""

    constant: str
    columns: tuple[ListedColumn, ...]


@dataclass(frozen=True)
class Reason:
    """A status and a reason, with the cases that ended so."""

    status: str
    reason: str
    cases: int
    labels: str


def listing(frame: pd.DataFrame) -> Listing:
    """The table of all cases of a frame, a row for each of its rows."""
    varying = [name for name in CASE if frame[name].nunique() > 1]
    constant = {name: frame[name].iloc[0] for name in CASE if name not in varying}
    metrics = [metric for metric in TABLE if frame[metric.column].notna().any()]
    columns = [
        _worded(frame["variant"], "method"),
        ListedColumn("settings", _settings(frame)),
        *(_worded(frame[name], TITLES.get(name, name)) for name in varying),
        _worded(frame["status"], "status"),
        *(_measured(frame, metric) for metric in metrics),
    ]
    return Listing(describe(constant), tuple(columns))


def _settings(frame: pd.DataFrame) -> pd.Series[Any]:
    """The mark of another operator, the implementation and the hyperparameters of each row."""
    asked, used = frame["implementation"], frame["implementation_used"]
    result = asked.where((used == "") | (used == asked), asked + " → " + used)
    result = result.mask(frame["other_operator"], OTHER_OPERATOR + " · " + result)
    named = frame["hyperparameters"] != ""
    return result.mask(named, result + " · " + frame["hyperparameters"])


def _worded(values: pd.Series[Any], title: str) -> ListedColumn:
    different = sorted(values.unique())
    choices = tuple(map(str, different)) if 1 < len(different) <= MOST_CHOICES else ()
    return ListedColumn(title, values.astype(str), choices)


def _measured(frame: pd.DataFrame, metric: Metric) -> ListedColumn:
    low, high = (None if name is None else frame[name] for name in (metric.low, metric.high))
    return ListedColumn(metric.short, frame[metric.column], (), metric, low, high)


def reasons(frame: pd.DataFrame) -> Sequence[Reason]:
    """The cases that did not finish, by status and reason, the most frequent first."""
    failed = frame[frame["status"] != OK]
    found = [
        Reason(str(status), str(reason), len(rows), _few(sorted(rows["label"].unique())))
        for (status, reason), rows in failed.groupby(["status", "reason"])
    ]
    found.sort(key=lambda it: (-it.cases, it.status, it.reason))
    if len(found) > MOST_REASONS:
        rest = found[MOST_REASONS:]
        found = [
            *found[:MOST_REASONS],
            Reason("", f"{len(rest)} more reasons, in the table", sum(r.cases for r in rest), ""),
        ]
    return found


def _few(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(labels[:8]) + more
