"""Which rows stand together in one figure, one panel, one line.

A line holds nothing constant by luck: a slice fixes what splits figures, a panel fixes its row and
column and picks one value of everything else that is not on an axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.metrics import show_count
from reports.rows import finished

# One set of figures for each combination of these.
SPLIT = ("machine", "causal", "head_dim", "batch", "grouping", "memory")
# Within a figure these are on an axis, a facet, or picked.
SCENE = ("source", "dtype", "heads", "seq_len", "direction", "seed")

Fixed = Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """Rows that agree in everything of `SPLIT`; `name` is a file name part, empty if alone."""

    name: str
    fixed: Fixed
    rows: pd.DataFrame


@dataclass(frozen=True)
class Panel:
    """Rows of one set of axes: they agree in all but what is on the x axis, and the label."""

    row: Any
    column: Any
    fixed: Fixed
    rows: pd.DataFrame


def split(frame: pd.DataFrame) -> list[Slice]:
    """The slices of a frame, the one with the most numbers first."""
    groups = [(_named(SPLIT, key), rows) for key, rows in frame.groupby(list(SPLIT), sort=True)]
    groups.sort(key=lambda group: -len(finished(group[1])))
    varying = [dim for dim in SPLIT if len({fixed[dim] for fixed, _ in groups}) > 1]
    return [
        Slice(
            name=_file_name({dim: fixed[dim] for dim in varying}) if len(groups) > 1 else "",
            fixed=fixed,
            rows=rows,
        )
        for fixed, rows in groups
    ]


def panels(rows: pd.DataFrame, *, x: str, row: str, column: str) -> list[Panel]:
    """One panel for each value of `row` and `column` there is."""
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
    """The values of `free` that show most, and their rows.

    Most points along `x`; then, of those with at least three quarters of the most finished rows,
    the longest sequence; then what is most common in `among`; then more heads.
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
        key=lambda it: (it[3].get("seq_len", 0), it[2], it[1], it[3].get("heads", 0)),
    )
    return fixed, group


def describe(fixed: Fixed) -> str:
    """Fixed values in words, separated by middle dots; what is as usual is left out."""
    words = []
    for name, value in fixed.items():
        match name:
            case "causal":
                words.append("causal" if value else "not causal")
            case "seq_len":
                words.append(f"length {show_count(value)}")
            case "heads":
                words.append(f"{value} head" + ("s" if value != 1 else ""))
            case "machine" | "dtype" | "direction" | "grouping" | "memory":
                words.append(str(value).replace("forward_backward", "forward + backward"))
            case "passage":
                pass  # the direction and the source stand for themselves
            case "inputs" if "source" in fixed:
                pass  # the source names the inputs, and their layer
            case "source" | "inputs":
                words.append(f"inputs {value}")
            case _:
                words.append(f"{name} {value}")
    return " · ".join(word for word in words if word)


def common(parts: Sequence[Fixed]) -> dict[str, Any]:
    """The entries that all of the mappings have, with the same value."""
    first, *others = parts
    return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def also_measured(rows: pd.DataFrame, drawn: Sequence[Panel]) -> str:
    """What `rows` hold of the picked dimensions that no panel shows."""
    parts = []
    for dim in drawn[0].fixed:
        shown = {panel.fixed[dim] for panel in drawn}
        if others := sorted(set(finished(rows)[dim].unique()) - shown):
            text = ", ".join(show_count(v) if dim == "seq_len" else str(v) for v in others[:6])
            more = f" and {len(others) - 6} more" if len(others) > 6 else ""
            parts.append(f"{'inputs' if dim == 'source' else dim} {text}{more}")
    return "; ".join(parts)


def _named(names: Sequence[str], key: Any) -> dict[str, Any]:
    return dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))


def _file_name(fixed: Fixed) -> str:
    text = describe(fixed).lower()
    return "-".join("".join(c if c.isalnum() else " " for c in text).split())
