"""The table of all cases on the page, and the reasons why cases did not finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.answers import numbers
from reports.metrics import TABLE, Metric
from reports.names import OTHER_OPERATOR
from reports.rows import OK
from reports.slices import describe
from reports.tables import reproduce_command

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
    """A column of the table; with `choices`, the page has a menu that filters by it."""

    title: str
    is_number: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListedCell:
    """A cell: its text, the value for sorting and filters, and a detail in small letters."""

    text: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class ListedRow:
    """One case: its cells, and the command and the inputs that a click unfolds."""

    cells: tuple[ListedCell, ...]
    is_ok: bool
    command: str
    inputs_detail: str


@dataclass(frozen=True)
class Listing:
    """The table; `constant` names the values that all rows share."""

    constant: str
    columns: tuple[ListedColumn, ...]
    rows: tuple[ListedRow, ...]


@dataclass(frozen=True)
class Reason:
    """A status and a reason, with the cases that ended so."""

    status: str
    reason: str
    cases: int
    labels: str


def listing(frame: pd.DataFrame) -> Listing:
    """The table of all cases of a frame."""
    varying = [name for name in CASE if frame[name].nunique() > 1]
    constant = {name: frame[name].iloc[0] for name in CASE if name not in varying}
    metrics = [metric for metric in TABLE if frame[metric.column].notna().any()]
    columns = [
        _menu_column(frame["variant"], "method"),
        *(_menu_column(frame[name], TITLES.get(name, name)) for name in varying),
        _menu_column(frame["status"], "status"),
        *(ListedColumn(metric.short, is_number=True) for metric in metrics),
    ]
    rows = [_row(row, varying, metrics) for _, row in frame.iterrows()]
    return Listing(describe(constant), tuple(columns), tuple(rows))


def _row(row: pd.Series, varying: Sequence[str], metrics: Sequence[Metric]) -> ListedRow:
    asked, used = row["implementation"], row["implementation_used"]
    implementation = asked if used in ("", asked) else f"{asked} → {used}"
    mark = OTHER_OPERATOR if row["other_operator"] else ""
    settings = " · ".join(filter(None, (mark, implementation, row["hyperparameters"])))
    words = [str(row[name]) for name in varying]
    shown = numbers(row, metrics)
    values = ["" if pd.isna(row[m.column]) else repr(float(row[m.column])) for m in metrics]
    cells = [
        ListedCell(row["variant"], row["variant"], settings),
        *(ListedCell(word, word) for word in words),
        ListedCell(row["status"], row["status"], row["reason"]),
        *(ListedCell(text, value) for text, value in zip(shown, values, strict=True)),
    ]
    return ListedRow(
        tuple(cells), row["status"] == OK, reproduce_command(row), row["inputs_detail"]
    )


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


def _menu_column(values: pd.Series[Any], title: str) -> ListedColumn:
    different = sorted(values.unique())
    choices = tuple(map(str, different)) if 1 < len(different) <= MOST_CHOICES else ()
    return ListedColumn(title, pd.api.types.is_integer_dtype(values), choices)


def _few(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(labels[:8]) + more
