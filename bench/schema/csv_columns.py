"""Reads the columns of a CSV file, with the types and the bounds that a schema declares."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bench.schema.column_types import Sentence
from bench.schema.columns import Column
from bench.schema.type_words import wanted
from bench.schema.validation import FileError, name_of, read_text, shown

CHUNK = 10_000  # rows that are converted at a time


def read_csv(path: Path, columns: Mapping[str, Column]) -> dict[str, list[Any]]:
    """The values of a CSV file by column, each with the type and the bounds of its column.

    Columns may be in any order, and others are ignored. Those that came later may be absent. An
    empty field, or the word `empty` of its column, is None in a column that allows it. TRUE, FALSE,
    and 3.0 for an integer are read as well, because spreadsheets write them.

    Raises:
        FileError: the file cannot be read, a row has too many or too few fields, a column is
            missing or there twice, or a value is not of its type or out of its bounds.
    """
    source = name_of(path)
    reader = csv.reader(_lines(read_text(path), source), strict=True)
    rows = _rows(reader, source)
    header = next(rows, None)
    if header is None:
        raise FileError(f"{source} is empty; expected a header and one row per case")
    if twice := {name for name in header if header.count(name) > 1}:
        raise FileError(
            f"{source}: line 1: expected each column once, got {shown(min(twice))} twice"
        )
    if missing := [c.name for c in columns.values() if c.name not in header and not c.came_later]:
        raise FileError(
            f"{source} lacks {len(missing)} of the {len(columns)} expected columns: "
            f"{', '.join(missing)}. The run may come from another version of this program; "
            "run it again, or build its report with the version that wrote it"
        )
    places = {name: header.index(name) for name in columns if name in header}
    found: dict[str, list[Any]] = {name: [] for name in columns}
    done = 0
    while some := list(islice(rows, CHUNK)):
        texts = list(zip(*some, strict=True))
        for name, column in columns.items():
            if name in places:
                place = f"{source}: column {name}"
                found[name] += _converted(texts[places[name]], column, place, done)
            else:
                found[name] += [column.default] * len(some)
        done += len(some)
    return found


def _lines(text: str, source: str) -> Iterator[str]:
    for number, line in enumerate(StringIO(text, newline=""), start=1):
        if "\0" in line:
            raise FileError(f"{source}: line {number}: expected text, got a NUL character")
        yield line


def _rows(reader: Any, source: str) -> Iterator[list[str]]:
    """The rows that are not empty, all as long as the first."""
    width = 0
    try:
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                raise FileError(
                    f"{source}: line {reader.line_num}: expected {width} fields as in the header, "
                    f"got {len(row)}"
                )
            if row:
                yield row
    except csv.Error as error:
        raise FileError(
            f"{source}: line {reader.line_num}: expected a row of a CSV file, got {error}"
        ) from None


def _converted(texts: Sequence[str], column: Column, place: str, first: int) -> list[Any]:
    """Texts of a column as values; `first` is the number of rows before them."""
    hint = Sentence if column.hint is str else column.hint
    if column.empty:  # spreadsheets and pandas may write -1 as -1.0
        texts = ["" if text.removesuffix(".0") == column.empty else text for text in texts]
    values: Sequence[str | None] = texts if column.is_text else [text or None for text in texts]
    try:
        return msgspec.convert(values, list[hint], strict=False)  # type: ignore[valid-type]
    except (msgspec.ValidationError, OverflowError) as error:
        found = re.search(r"\$\[(\d+)\]", str(error))
        row = int(found[1]) if found else 0
        raise FileError(
            f"{place}, row {first + row + 1}: expected {wanted(hint)}, got {shown(texts[row])}"
        ) from None
