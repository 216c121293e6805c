"""The short answer: the methods worth choosing for each length, dtype and direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.baselines import useless
from reports.metrics import DECODING, ERROR, MEAN_OF_VALUES, SUMMARY, TIME, Metric, show_error
from reports.pareto import frontier, rounding
from reports.rows import finished
from reports.slices import SCENE, Fixed, Slice, pick


@dataclass(frozen=True)
class Choice:
    """A method that is worth choosing, and its numbers in words, in the order of `summary_of`."""

    label: str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """The methods that are worth choosing among the cases of one length, the fastest first.

    `done` of the `cases` rows finished. The error of each choice is below `limit`. `smallest` is
    the method with the least memory, in decoding the smallest state, of all methods below `limit`.
    `useless` rows are no better than a baseline and never chosen; `useful` ones are better.
    """

    scene: Fixed
    done: int
    cases: int
    limit: float
    useful: int
    useless: int
    choices: tuple[Choice, ...]
    smallest: Choice | None

    @property
    def limit_in_words(self) -> str:
        """The limit, and the output that has this error."""
        what = "the mean of the values" if self.limit < 1 else "an output of zeros"
        return f"{show_error(self.limit)}, the error of {what}"


def answers(part: Slice) -> list[Answer]:
    """An answer for each dtype, direction and length of a slice that has a finished case.

    A method is worth choosing if no other one is both faster and, beyond the intervals, at least as
    accurate, and if its error is below that of the mean of the values, of zeros and of random keys.
    A method that is another operator than softmax attention is counted and never chosen. A length
    with captured inputs uses only these.
    """
    found = []
    metrics = summary_of(part)
    for scene, rows in _scenes(part):
        done = finished(rows)
        limit = _limit(done)
        methods = done[~done["other_operator"]].dropna(subset=[ERROR.column])
        good = methods[(methods[ERROR.column] < limit) & ~useless(methods)]
        best = frontier(good, TIME, ERROR, floor=rounding(done, ERROR))
        held = good.dropna(subset=[metrics[2].column]).sort_values(metrics[2].column)
        found.append(
            Answer(
                scene=scene,
                done=len(done),
                cases=len(rows),
                limit=limit,
                useful=len(good),
                useless=len(methods) - len(good),
                choices=tuple(_choice(row, metrics) for _, row in best.iterrows()),
                smallest=_choice(held.iloc[0], metrics) if len(held) else None,
            )
        )
    return found


def summary_of(part: Slice) -> Sequence[Metric]:
    """The metrics of an answer: time, speedup, memory and error; in decoding, time per token,
    speedup, state and error."""
    return DECODING if part.sort == "decode" else SUMMARY


def numbers(row: pd.Series, metrics: Sequence[Metric]) -> list[str]:
    """The values of a row in words; a missing value is an empty text."""
    return ["" if pd.isna(row[m.column]) else m.show(float(row[m.column])) for m in metrics]


def _scenes(part: Slice) -> Iterator[tuple[Fixed, pd.DataFrame]]:
    """The values that the rows of an answer share, and these rows, for each answer."""
    by = ["dtype", "direction", "seq_len"]
    free = [name for name in SCENE if name not in by]
    for key, group in part.rows.groupby(by, sort=True):
        captured = group[group["layer"].notna()]
        rows = captured if len(finished(captured)) else group
        if finished(rows).empty:
            continue
        fixed, picked = pick(rows, x="seq_len", free=free, among=part.rows)
        named: dict[str, Any] = dict(zip(by, key, strict=True))
        yield {**named, **{name: value for name, value in fixed.items() if name != "seed"}}, picked


def _limit(done: pd.DataFrame) -> float:
    """The smallest error of an output that ignores the queries: zeros or the mean of the values."""
    assert ERROR.useless is not None
    return float(min([ERROR.useless, *done[MEAN_OF_VALUES].dropna()]))


def _choice(row: pd.Series, metrics: Sequence[Metric]) -> Choice:
    return Choice(row["label"], tuple(numbers(row, metrics)))
