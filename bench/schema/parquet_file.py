"""Writes a table to a Parquet file, with a library that is installed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LIBRARIES = ("pyarrow", "duckdb")  # the first one that is installed is used


def write_parquet(table: pd.DataFrame, path: Path) -> bool:
    """Write a table atomically: a file that is there is replaced only when all rows are written.

    Returns:
        Whether one of `LIBRARIES` is installed; without one, nothing is written.
    """
    partial = path.with_name(f"{path.name}.partial")
    if find_spec("pyarrow"):
        table.to_parquet(partial, index=False)
    elif find_spec("duckdb"):
        import duckdb

        duckdb.from_df(table).write_parquet(str(partial))
    else:
        return False
    os.replace(partial, path)
    return True
