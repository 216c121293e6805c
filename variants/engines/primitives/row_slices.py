"""Cuts a range of rows into slices."""

from __future__ import annotations

from collections.abc import Iterator


def row_slices(first: int, last: int, rows: int) -> Iterator[slice]:
    """Slices of at most `rows` rows that cover the rows `first` to `last`, without `last`."""
    for start in range(first, last, rows):
        yield slice(start, min(start + rows, last))
