"""The short answer: what to use at the longest length that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.metrics import (
    DECODING,
    ERROR,
    ERROR_BUDGET,
    MEAN_OF_VALUES,
    SUMMARY,
    TIME,
    Metric,
)
from reports.rows import finished
from reports.slices import SCENE, Slice, pick


@dataclass(frozen=True)
class Choice:
    """The best case by one metric, with what it costs and how wrong it is."""

    label: str
    lines: tuple[str, ...]
    error: str
    is_wrong: bool


@dataclass(frozen=True)
class Answer:
    """The choices among the cases of one length; `cases` of them were tried, `done` finished."""

    source: str
    dtype: str
    direction: str
    call: str
    heads: int
    seq_len: int
    done: int
    cases: int
    fastest: Choice | None
    accurate: Choice | None
    smallest: Choice | None


def answers(part: Slice) -> list[Answer]:
    """One answer for each inputs, dtype and direction of a slice; none where nothing finished.

    What is another operator than softmax attention is counted, and never chosen.
    """
    found = []
    by = ["inputs", "dtype", "direction"]
    free = [name for name in SCENE if name not in (*by, "seq_len")]
    for _, group in part.rows.groupby(by, sort=True):
        longest = finished(group)["seq_len"].max()
        if pd.isna(longest):
            continue
        longest_rows = group[group["seq_len"] == longest]
        _, rows = pick(longest_rows, x="seq_len", free=free, among=part.rows)
        done = finished(rows)
        able = done[~done["other_operator"]]
        metrics = summary_of(part)
        first = done.iloc[0]
        found.append(
            Answer(
                source=first["source"],
                dtype=first["dtype"],
                direction=first["direction"],
                call=first["call"],
                heads=int(first["heads"]),
                seq_len=int(longest),
                done=len(done),
                cases=len(rows),
                fastest=_best(able, TIME, metrics),
                accurate=_best(able[able[ERROR.column] <= ERROR_BUDGET], TIME, metrics),
                smallest=_best(able, metrics[2], metrics),
            )
        )
    return found


def summary_of(part: Slice) -> Sequence[Metric]:
    """Time, speedup, memory and error: of decoding, a token's time and what is held for the next
    one."""
    return DECODING if part.sort == "decode" else SUMMARY


def numbers(row: pd.Series, metrics: Sequence[Metric]) -> list[str]:
    """The values of a row in words; empty where there is none."""
    return ["" if pd.isna(row[m.column]) else m.show(float(row[m.column])) for m in metrics]


def _best(rows: pd.DataFrame, metric: Metric, metrics: Sequence[Metric]) -> Choice | None:
    values = rows[metric.column].astype("float64").dropna()
    if values.empty:
        return None
    best = values.argmin() if metric.better == "lower" else values.argmax()
    row = rows.loc[values.index].iloc[int(best)]
    time, speedup, memory, error = numbers(row, metrics)
    cost = f"{time} · speedup {speedup}" if speedup else time
    wrong = any(row[ERROR.column] >= level for level in (ERROR.useless, row[MEAN_OF_VALUES]))
    return Choice(row["label"], tuple(filter(None, (cost, memory))), error, wrong)
