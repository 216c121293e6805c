"""What the inputs are like: how exact attention spreads its weight on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from reports.metrics import show_count, show_number, show_percent
from reports.rows import Runs, finished
from reports.slices import captured_first

# What the numbers depend on; the first names a line, the others are shown where they vary.
SCENE = ("source", "causal", "rows", "seq_len", "memory", "heads", "head_dim", "batch", "seed")
TITLES = {"source": "inputs", "seq_len": "length", "memory": "keys", "rows": "queries"}


@dataclass(frozen=True)
class Descriptor:
    """A number of inputs, and what it means in a sentence."""

    title: str
    column: str
    show: Callable[[float], str]
    meaning: str


DESCRIPTORS = (
    Descriptor(
        "effective keys",
        "effective_keys",
        show_number,
        "so many keys of equal weight would be as spread out as a query's exact weights (the "
        "exponential of their entropy): where they are few, a method must find them; where they "
        "are many, averages do.",
    ),
    Descriptor(
        "sink mass",
        "sink_mass",
        show_percent,
        "weight on the very first key, which a method that always sees it has for nothing.",
    ),
    Descriptor(
        "mass within 128",
        "near_mass",
        show_percent,
        "weight on keys at a distance of at most 128, which is what a window of that size keeps.",
    ),
    Descriptor(
        "top-64 mass",
        "top64_mass",
        show_percent,
        "weight on the 64 heaviest keys, the most that any choice of 64 keys for a query keeps.",
    ),
    Descriptor(
        "logit spread",
        "logit_spread",
        show_number,
        "standard deviation of a query's scaled scores over its keys: at 0 all keys weigh the "
        "same, and the mean of V is exact.",
    ),
)


@dataclass(frozen=True)
class Number:
    """The mean over heads, and the least and greatest of them where they are known."""

    mean: str
    reach: str


@dataclass(frozen=True)
class InputsTable:
    """A line for each inputs: words by `titles`, then numbers by `DESCRIPTORS`."""

    titles: Sequence[str]
    lines: Sequence[tuple[Sequence[str], Sequence[Number]]]

    @property
    def has_heads(self) -> bool:
        """Whether anything is known of single heads."""
        return any(number.reach for _, numbers in self.lines for number in numbers)


def described(runs: Runs) -> InputsTable | None:
    """The inputs of all runs, captured ones first; None where nothing was said of them."""
    columns = [descriptor.column for descriptor in DESCRIPTORS]
    done = finished(runs.frame)
    done = done[done[columns].notna().any(axis=1)]
    if done.empty:
        return None
    steps = done["direction"] == "decode"
    done = done.assign(rows=steps.map({True: "the last ones", False: "all"}))
    varying = [name for name in SCENE[1:] if done[name].nunique() > 1]
    shown = ["source", *varying]
    per_head = runs.per_head.join(done[list(SCENE)], on="case", how="inner")
    groups = sorted(done.groupby(list(SCENE)), key=lambda it: captured_first(it[1]))
    lines = []
    for key, rows in groups:
        of_heads = per_head[(per_head[list(SCENE)] == list(key)).all(axis=1)]
        first = rows.iloc[0]
        numbers = [_number(rows, of_heads, descriptor) for descriptor in DESCRIPTORS]
        lines.append(([_word(name, first[name]) for name in shown], numbers))
    return InputsTable([TITLES.get(name, name) for name in shown], lines)


def _number(rows: pd.DataFrame, of_heads: pd.DataFrame, descriptor: Descriptor) -> Number:
    # Rows of one scene agree but for the rounding of their dtype.
    mean = rows[descriptor.column].median()
    show, values = descriptor.show, of_heads[descriptor.column].dropna()
    reach = f"{show(values.min())} to {show(values.max())}" if values.nunique() > 1 else ""
    return Number("" if pd.isna(mean) else show(float(mean)), reach)


def _word(name: str, value: object) -> str:
    if name == "causal":
        return "yes" if value else "no"
    return show_count(float(str(value))) if name == "seq_len" else str(value)
