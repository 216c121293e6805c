"""The rows of several runs as one table with the columns of results.csv, for pandas and SQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.schema.measurement import Measurement
from bench.schema.origin import Knob, Origin, knob_of
from reports.rows import read_runs

COLUMNS = {**Measurement.columns(), **Origin.columns()}


def joined_rows(folders: Sequence[Path]) -> pd.DataFrame:
    """The rows of these runs as their results.csv would have them in this version.

    Runs of older versions, which lack columns and have empty keys, are completed.
    """
    return table_of(read_runs(folders).frame)


def table_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `Runs.frame` with the columns of results.csv, and its words for empty keys."""
    asked = zip(frame["hyperparameters"], frame["default_knob"], strict=True)
    knobs = pd.DataFrame([knob_of(*each).values for each in asked], frame.index)
    table = frame.assign(**{name: knobs[name] for name in Knob.columns()})[list(COLUMNS)]
    filled = {}
    for name, column in COLUMNS.items():
        if column.is_text and column.empty:
            filled[name] = table[name].mask(table[name] == "", column.empty)
        elif column.empty:
            filled[name] = table[name].fillna(int(column.empty))
    return table.assign(**filled)
