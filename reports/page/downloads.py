"""The files beside the page: all cases as CSV, and as Parquet if a library can write it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.schema.measurement import Measurement
from bench.schema.parquet_file import LIBRARIES, write_parquet

CSV, PARQUET = "cases.csv", "cases.parquet"
INTERNAL = ("place", "passage", "keys", "width", "default_knob")  # of figures only
FORMULA = r"^([=+\-@\t\r])"  # the first characters that a spreadsheet takes for a formula


@dataclass(frozen=True)
class Downloads:
    """The names of the files; `missing` says why a file is not there."""

    names: tuple[str, ...]
    missing: str = ""


def write_cases(frame: pd.DataFrame, out: Path) -> Downloads:
    """Write all rows, with machine and readable names, to cases.csv and cases.parquet in `out`.

    In the CSV file, an apostrophe stands before a text that a spreadsheet takes for a formula.
    """
    table = frame.drop(columns=[name for name in INTERNAL if name in frame])
    for name, column in Measurement.columns().items():
        if column.empty:  # an empty key would be left out of groups
            table[name] = table[name].replace("", column.empty)
    without_formulas(table).to_csv(out / CSV, index=False)
    plain = table.assign(**{name: table[name].astype("string") for name in _texts(table)})
    (out / PARQUET).unlink(missing_ok=True)
    if write_parquet(plain, out / PARQUET):
        return Downloads((CSV, PARQUET))
    return Downloads((CSV,), f"Install {' or '.join(LIBRARIES)} to get a Parquet file as well.")


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before each text that a spreadsheet takes for a formula."""
    return table.assign(
        **{
            name: table[name].astype("string").str.replace(FORMULA, r"'\1", regex=True)
            for name in _texts(table)
            if table[name].astype("string").str.match(FORMULA).any()
        }
    )


def _texts(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if table[name].dtype in ("str", "object")]
