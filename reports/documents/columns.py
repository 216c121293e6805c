"""Tables of the columns of results.csv and model.csv."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bench.schema import measurement, model_row
from reports.documents import markdown


def of_results() -> str:
    """The columns of results.csv, as Markdown."""
    descriptions = {name: measurement.DESCRIPTIONS[name] for name in measurement.COLUMNS}
    return _table(descriptions, measurement.CASE_COLUMNS, measurement.NUMBERS)


def of_model() -> str:
    """The columns of model.csv, as Markdown."""
    return _table(model_row.DESCRIPTIONS, model_row.CASE_COLUMNS, model_row.NUMBERS)


def _table(descriptions: Mapping[str, str], case: Collection[str], numbers: Collection[str]) -> str:
    def part(name: str) -> str:
        if name in case:
            return "case"
        return "number" if name in numbers else "outcome"

    return markdown.table(
        ("column", "part", "meaning"),
        [(f"`{name}`", part(name), text) for name, text in descriptions.items()],
    )
