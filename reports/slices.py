"""Selects the rows of one figure, one panel and one line.

Rows of a line differ only along x; every other column is fixed explicitly. A slice fixes the
columns that split figures. A panel fixes its row and its column, and picks one value of each other
column that is not on an axis.

There are three sorts of slices: calls with one head_dim; calls with one total width of all heads
and several numbers of heads; and decoding steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from reports.metrics import show_count
from reports.rows import finished

Sort = Literal["head_dim", "width", "decode"]
# There is one set of figures for each combination of these columns and of head_dim or width.
ALIKE = ("machine", "causal", "batch", "grouping", "memory", "launching")
SPLIT: Mapping[Sort, Sequence[str]] = {
    "head_dim": ("machine", "causal", "head_dim", *ALIKE[2:]),
    "width": ("machine", "causal", "width", *ALIKE[2:]),
    "decode": ("machine", "direction", "causal", "head_dim", *ALIKE[2:]),
}
# Within a figure, each of these is on an axis, in a facet, or fixed at one value.
SCENE = ("source", "dtype", "heads", "seq_len", "direction", "call", "seed")
DIRECTIONS = {"forward_backward": "forward + backward", "decode": "decoding step"}

Fixed = Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """Rows with the same values in the columns of `SPLIT`.

    `name` is a part of file names. It is empty if this is the only slice of its sort.
    """

    sort: Sort
    name: str
    fixed: Fixed
    rows: pd.DataFrame


@dataclass(frozen=True)
class Panel:
    """Rows of one set of axes; they differ only in the label and along the x axis."""

    row: Any
    column: Any
    fixed: Fixed
    rows: pd.DataFrame


def split(frame: pd.DataFrame) -> list[Slice]:
    """The slices of a frame by sort; in each sort, the slice with the most finished rows is first.

    A row can be in two slices: with other numbers of heads of the same total width, and with other
    cases of its head_dim.
    """
    decoding = frame["direction"] == "decode"
    calls, steps = frame[~decoding], frame[decoding]
    wide = calls[_of_several_widths(calls)]
    return [
        *_slices("head_dim", calls.drop(_shown(calls, wide))),
        *_slices("width", wide),
        *_slices("decode", steps),
    ]


def _of_several_widths(calls: pd.DataFrame) -> pd.Series[bool]:
    """Whether a case was also measured with other numbers of heads at the same total width."""
    same = [*SPLIT["width"], *(dim for dim in SCENE if dim != "heads")]
    return calls.groupby(same)["head_dim"].transform("nunique") > 1


def _shown(calls: pd.DataFrame, wide: pd.DataFrame) -> pd.Index[int]:
    """The rows with a head_dim that the figures by width already show.

    If this leaves no figure against the length, the head_dim with the most rows keeps its figures.
    """
    shown: list[int] = []
    for _, alike in calls.groupby(list(ALIKE)):
        groups = [rows for _, rows in alike.groupby("head_dim")]
        over = [rows for rows in groups if rows.index.isin(wide.index).all()]
        if len(over) == len(groups):
            over.sort(key=lambda rows: (len(finished(rows)), -rows["head_dim"].iloc[0]))
            over = over[:-1] if over[-1]["seq_len"].nunique() > 1 else over
        shown.extend(index for rows in over for index in rows.index)
    return pd.Index(shown)


def _slices(sort: Sort, frame: pd.DataFrame) -> list[Slice]:
    dims = SPLIT[sort]
    groups = [(_named(dims, key), rows) for key, rows in frame.groupby(list(dims), sort=True)]
    groups.sort(key=lambda group: -len(finished(group[1])))
    varying = [dim for dim in dims if len({fixed[dim] for fixed, _ in groups}) > 1]
    return [
        Slice(
            sort=sort,
            name=_file_name({dim: fixed[dim] for dim in varying}) if len(groups) > 1 else "",
            fixed=fixed,
            rows=rows,
        )
        for fixed, rows in groups
    ]


def panels(rows: pd.DataFrame, *, x: str, row: str, column: str) -> list[Panel]:
    """One panel for each pair of values of `row` and `column` in the rows."""
    free = [dim for dim in SCENE if dim not in (x, row, column)]
    result = []
    for key, group in rows.groupby([row, column], sort=True):
        fixed, picked = pick(group, x=x, free=free, among=rows)
        row_value, column_value = _named((row, column), key).values()
        result.append(Panel(row=row_value, column=column_value, fixed=fixed, rows=picked))
    return result


def pick(
    rows: pd.DataFrame, *, x: str, free: Sequence[str], among: pd.DataFrame
) -> tuple[Fixed, pd.DataFrame]:
    """The values of `free` that the panel shows, and their rows.

    Candidates have the most values along `x`, and at least three quarters of the largest number of
    finished rows. Among them the first criterion that differs decides: the longest sequence, the
    most common values in `among`, more finished rows, more heads, the alphabet (in which
    "attention alone" is the first call).
    """
    common = finished(among).groupby(list(free)).size().to_dict()
    candidates = []
    for key, group in rows.groupby(list(free), sort=True):
        done = finished(group)
        reach = done[x].nunique() if x in SCENE else 1
        candidates.append((reach, len(done), common.get(key, 0), _named(free, key), group))
    reach = max(candidate[0] for candidate in candidates)
    candidates = [candidate for candidate in candidates if candidate[0] == reach]
    most = max(candidate[1] for candidate in candidates)
    candidates = [candidate for candidate in candidates if candidate[1] >= 0.75 * most]
    *_, fixed, group = max(
        candidates,
        key=lambda it: (
            it[3].get("seq_len", 0),
            it[2],
            it[1],
            it[3].get("heads", 0),
        ),
    )
    return fixed, group


def captured_first(rows: pd.DataFrame) -> tuple[bool, str, int]:
    """A sort key for rows of one source: captured inputs before synthetic ones, then the layer."""
    first = rows.iloc[0]
    made = bool(pd.isna(first["layer"]))
    return made, first["inputs"], 0 if made else int(first["layer"])


def describe(fixed: Fixed) -> str:
    """Fixed values in words, separated by middle dots; empty ones are left out."""
    words = []
    for name, value in fixed.items():
        match name:
            case "causal":
                words.append("causal" if value else "not causal")
            case "seq_len":
                is_context = fixed.get("direction") == "decode"
                words.append(f"{'context' if is_context else 'length'} {show_count(value)}")
            case "heads":
                words.append(f"{value} head" + ("s" if value != 1 else ""))
            case "direction":
                words.append(DIRECTIONS.get(str(value), str(value)))
            case "machine" | "hardware" | "dtype" | "grouping" | "memory" | "call" | "launching":
                words.append(str(value))
            case "passage" | "keys":
                pass  # the direction, the source and the call have words of their own
            case "inputs" if "source" in fixed:
                pass  # the source names the inputs and their layer
            case "source" | "inputs":
                words.append(f"inputs {value}")
            case _:
                words.append(f"{name} {value}")
    return " · ".join(word for word in words if word)


def common(parts: Sequence[Fixed]) -> dict[str, Any]:
    """The entries that all of the mappings have, with the same value."""
    first, *others = parts
    return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def _named(names: Sequence[str], key: Any) -> dict[str, Any]:
    return dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))


def _file_name(fixed: Fixed) -> str:
    text = describe(fixed).lower()
    return "-".join("".join(c if c.isalnum() else " " for c in text).split())
