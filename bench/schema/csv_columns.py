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
from msgspec import inspect

from bench.schema.validation import FileError, name_of, one_line, read_text, shown

CHUNK = 10_000  # rows that are converted at a time


def read_csv(
    path: Path, hints: Mapping[str, Any], later: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """The columns of a CSV file, each with the type and the bounds of its hint.

    Columns may be in any order, and others are ignored. A column of `later` may be absent: it then
    has this value. An empty field is None in a column that allows it. A truth may be written in
    capitals, and an integer as 3.0, as spreadsheets do.

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
    if missing := [name for name in hints if name not in header and name not in later]:
        raise FileError(
            f"{source} lacks {len(missing)} of the {len(hints)} expected columns: "
            f"{', '.join(missing)}. The run may come from another version of this program; "
            "run it again, or build its report with the version that wrote it"
        )
    places = {name: header.index(name) for name in hints if name in header}
    columns: dict[str, list[Any]] = {name: [] for name in hints}
    done = 0
    while some := list(islice(rows, CHUNK)):
        texts = list(zip(*some, strict=True))
        for name, hint in hints.items():
            if name in places:
                place = f"{source}: column {name}"
                columns[name] += _converted(texts[places[name]], hint, place, done)
            else:
                columns[name] += [later[name]] * len(some)
        done += len(some)
    return columns


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


def _converted(texts: Sequence[str], hint: Any, place: str, first: int) -> list[Any]:
    """Texts of a column as values; `first` is the number of rows before them."""
    is_text = isinstance(_bare(inspect.type_info(hint)), inspect.StrType)
    values = texts if is_text else [text or None for text in texts]
    try:
        return msgspec.convert(values, list[hint], strict=False)
    except (msgspec.ValidationError, OverflowError) as error:
        found = re.search(r"\$\[(\d+)\]", str(error))
        if found is None:
            raise FileError(f"{place}: {one_line(error)}") from None
        row = int(found[1])
        raise FileError(
            f"{place}, row {first + row + 1}: expected {_wanted(hint)}, got {shown(texts[row])}"
        ) from None


def _wanted(hint: Any) -> str:
    """A type and its bounds in words; the description of the type if it has one."""
    kind = inspect.type_info(hint)
    if isinstance(kind, inspect.UnionType):
        words = [_words(each) for each in kind.types if not isinstance(each, inspect.NoneType)]
        return f"{' or '.join(words)}, or nothing"
    return _words(kind)


def _words(kind: inspect.Type) -> str:
    described = isinstance(kind, inspect.Metadata) and kind.extra_json_schema
    if described and "description" in described:
        return str(described["description"])
    match _bare(kind):
        case inspect.EnumType(cls=cls):
            return f"one of {', '.join(map(str, cls))}"
        case inspect.BoolType():
            return "True or False"
        case inspect.IntType():
            return "a whole number"
        case inspect.FloatType():
            return "a number"
        case inspect.StrType(max_length=int(length)):
            return f"a text of at most {length} characters"
        case other:
            return type(other).__name__.removesuffix("Type").lower()


def _bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind
