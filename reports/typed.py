"""Reads CSV files of a run and converts their columns to types."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

import pandas as pd

from bench.schema.outcome import Status

_TRUTHS = {"true": True, "false": False}


class ResultsError(ValueError):
    """A run cannot be read; the message gives the expected and the actual content."""


def read_texts(path: Path) -> pd.DataFrame:
    """Every value of a CSV file as text, unchanged."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except pd.errors.EmptyDataError:
        raise ResultsError(f"{path} is empty; expected a header and one row per case") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is not a CSV file: {error}") from None


def typed(text: pd.Series[str], hint: Any, path: Path) -> pd.Series[Any]:
    """Convert a column to the type `hint`; the error names a value that is not of this type."""
    is_union = isinstance(hint, types.UnionType)
    kinds = set(typing.get_args(hint)) if is_union else {hint}
    empty = text == ""
    if kinds & {bool, int, float} and types.NoneType not in kinds and empty.any():
        raise _unreadable(text, empty, "a value", path)
    if bool in kinds:
        truths = text.str.lower().map(_TRUTHS)
        if (wrong := truths.isna() & ~empty).any():
            raise _unreadable(text, wrong, "True or False", path)
        return truths.astype("boolean" if empty.any() else bool)
    if int in kinds or float in kinds:
        numbers = pd.to_numeric(text.mask(empty), errors="coerce").astype("float64")
        if (wrong := numbers.isna() & ~empty & (text.str.lower() != "nan")).any():
            raise _unreadable(text, wrong, "a number", path)
        if float in kinds:
            return numbers
        if (wrong := numbers.notna() & (numbers % 1 != 0)).any():
            raise _unreadable(text, wrong, "a whole number", path)
        return numbers.astype("Int64")
    if Status in kinds and (wrong := ~text.isin(list(Status))).any():
        raise _unreadable(text, wrong, f"one of {', '.join(Status)}", path)
    return text


def _unreadable(
    text: pd.Series[str], wrong: pd.Series[bool], valid: str, path: Path
) -> ResultsError:
    line = int(wrong.to_numpy().argmax())
    return ResultsError(
        f"{path}: column {text.name}, row {line + 1}: expected {valid}, got {text.iloc[line]!r}"
    )
