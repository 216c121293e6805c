"""The rows of a run as a table with the columns of results.csv, typed by the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from bench.export.exported_run import ExportedRun, Values
from bench.schema.columns import Column
from bench.schema.measurement import Measurement
from bench.schema.origin import Origin, knobs_of, origin_of
from bench.schema.type_words import bare

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {**Measurement.columns(), **Origin.columns()}


def case_table(run: ExportedRun) -> pd.DataFrame:
    """All rows, also of cases without a time. Numbers and truth values that do not apply are null;
    keys have the word of their column, as in results.csv."""
    import pandas as pd  # slow to import, and only this format needs it

    knobs = knobs_of(run.environment)
    rows = [
        {**row, **origin_of(row, run.environment, _knob(row, knobs)).values} for row in run.rows
    ]
    filled = {
        name: [_filled(row[name], column) for row in rows] for name, column in COLUMNS.items()
    }
    types = {name: _dtype(column) for name, column in COLUMNS.items()}
    return pd.DataFrame(filled, dtype="object").astype(types)


def _knob(row: Values, knobs: Mapping[str, str]) -> str:
    """The knob of the variant at its default; older runs do not record it."""
    variant: str = row["variant"]
    if variant in knobs:
        return knobs[variant]
    from variants.contract.registry import REGISTRY, default_knob  # imports torch

    return default_knob(variant) if variant in REGISTRY else ""


def _filled(value: Any, column: Column) -> Any:
    if column.empty and value in (None, ""):
        return column.empty if column.is_text else int(column.empty)
    return value


def _dtype(column: Column) -> str:
    """The type of pandas that holds the values of a column and nulls."""
    if column.is_text:
        return "string"
    kind = bare(inspect.type_info(column.hint))
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    for each in map(bare, kinds):
        match each:
            case inspect.BoolType():
                return "boolean"
            case inspect.IntType():
                return "Int64"
            case inspect.FloatType():
                return "Float64"
    return "string"
