"""Tables of the columns of results.csv, model.csv and answers.csv."""

from __future__ import annotations

from typing import Any

from bench.schema.measurement import Measurement
from bench.schema.model_row import ModelRow
from bench.schema.origin import Origin
from bench.schema.row import Row
from reports import markdown_table as markdown
from reports.answers_csv import COLUMNS


def of_results() -> str:
    """The columns of results.csv, as Markdown."""
    return _table(Measurement)


def of_model() -> str:
    """The columns of model.csv, as Markdown."""
    return _table(ModelRow)


def of_answers() -> str:
    """The columns of answers.csv, as Markdown."""
    rows = [(f"`{name}`", meaning) for name, meaning in COLUMNS.items()]
    return markdown.table(("column", "meaning"), rows)


def _table(rows: type[Row[Any]]) -> str:
    def part(name: str) -> str:
        if name in Origin.columns():
            return "origin"
        if name in rows.case_type.columns():
            return "case"
        return "number" if name in rows.numbers() else "outcome"

    columns = {**rows.columns(), **Origin.columns()}
    return markdown.table(
        ("column", "part", "meaning"),
        [(f"`{name}`", part(name), column.description) for name, column in columns.items()],
    )
