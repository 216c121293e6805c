"""Writes the files of a run."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.schema.columns import Column


def write_table(
    path: Path, columns: Mapping[str, Column], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write a CSV file atomically: it is replaced only when all rows are written."""
    words = {name: column.empty for name, column in columns.items() if column.empty}
    partial = partial_file(path)
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(columns))
        table.writeheader()
        for row in rows:
            empty = {name: word for name, word in words.items() if row[name] in (None, "")}
            table.writerow({**row, **empty})
    os.replace(partial, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object to a JSON file, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, atomically."""
    partial = partial_file(path)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def partial_file(path: Path) -> Path:
    """The file that is written first, and then gets the name of a path."""
    return path.with_name(f"{path.name}.partial")
