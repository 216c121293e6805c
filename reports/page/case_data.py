"""The table of all cases as columns, and what the page needs to show and to repeat a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.schema.case import Case
from reports.listing import Listing
from reports.page.packing import Table, rounded

# Columns that the commands and the details of rows need.
BESIDE = ("reason", "inputs_detail", "modules")


def case_tables(frame: pd.DataFrame, listed: Listing) -> dict[str, Table]:
    """The tables `cases` (columns `c0`, `c1`, ... of the listing) and `commands`.

    `commands` has the columns of a case as text, for the command that measures a row again; an
    empty text means that the command does not name the column.
    """
    cases: dict[str, Any] = {}
    for number, column in enumerate(listed.columns):
        if column.metric is None:
            cases[f"c{number}"] = column.values
            continue
        parts = {"": column.values, "_low": column.low, "_high": column.high}
        cases |= {f"c{number}{end}": rounded(v) for end, v in parts.items() if v is not None}
    own = {name: _spelled(frame[name]) for name in Case.columns()}
    return {"cases": cases, "commands": {**own, **{name: frame[name] for name in BESIDE}}}


def case_facts(listed: Listing) -> list[Mapping[str, Any]]:
    """The title, the menu and the unit of each column of the listing."""
    return [
        {
            "title": column.title,
            "choices": column.choices,
            "show": "" if column.metric is None else column.metric.show.__name__,
            "has_interval": column.low is not None,
        }
        for column in listed.columns
    ]


def _spelled(values: pd.Series[Any]) -> pd.Series[Any]:
    """Values as words of a command; a missing value is empty."""
    words = values.astype("string").fillna("")
    return words.str.lower() if pd.api.types.is_bool_dtype(values) else words
