"""The table of inputs: how exact attention distributes its weights on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from reports.metrics import show_count, show_number, show_percent
from reports.rows import Runs, finished

# The numbers depend on these. The first names a line, the others are shown if they vary.
SCENE = ("source", "causal", "rows", "seq_len", "memory", "heads", "head_dim", "batch", "seed")
MOST_LINES = 100
TITLES = {"source": "inputs", "seq_len": "length", "memory": "keys", "rows": "queries"}


@dataclass(frozen=True)
class Descriptor:
    """A number that describes inputs, and its meaning in a sentence."""

    title: str
    column: str
    show: Callable[[float], str]
    meaning: str


DESCRIPTORS = (
    Descriptor(
        "effective keys",
        "effective_keys",
        show_number,
        "the number of equal weights that have the same entropy as a query's exact weights. If it "
        "is small, a method must find these keys; if it is large, averages are accurate.",
    ),
    Descriptor(
        "sink mass",
        "sink_mass",
        show_percent,
        "weight on the first key. A method that always sees the first key has it without a search.",
    ),
    Descriptor(
        "mass within 128",
        "near_mass",
        show_percent,
        "weight on keys at a distance of at most 128. A window of that size keeps it.",
    ),
    Descriptor(
        "top-64 mass",
        "top64_mass",
        show_percent,
        "weight on the 64 keys with the largest weights. No other 64 keys of a query have more.",
    ),
    Descriptor(
        "logit spread",
        "logit_spread",
        show_number,
        "standard deviation of a query's scaled scores over its keys. At 0 all keys have the same "
        "weight, and the mean of V is exact.",
    ),
)


@dataclass(frozen=True)
class Number:
    """The mean over heads, and the range of the heads if it is known."""

    mean: str
    reach: str


@dataclass(frozen=True)
class InputsTable:
    """A line for each kind of inputs: words by `titles`, then numbers by `DESCRIPTORS`.

    `left_out` is the number of lines beyond `MOST_LINES`.
    """

    titles: Sequence[str]
    lines: Sequence[tuple[Sequence[str], Sequence[Number]]]
    left_out: int = 0

    @property
    def has_heads(self) -> bool:
        """Whether a line has the range of its heads."""
        return any(number.reach for _, numbers in self.lines for number in numbers)


def described(runs: Runs) -> InputsTable | None:
    """The inputs of all runs, captured ones first; None if no row describes its inputs."""
    columns = [descriptor.column for descriptor in DESCRIPTORS]
    done = finished(runs.frame)
    done = done[done[columns].notna().any(axis=1)]
    if done.empty:
        return None
    steps = done["direction"] == "decode"
    done = done.assign(rows=steps.map({True: "the last ones", False: "all"}))
    varying = [name for name in SCENE[1:] if done[name].nunique() > 1]
    shown = ["source", *varying]
    groups = done.groupby(list(SCENE), sort=True)
    # Rows of one scene differ only by the rounding of their dtype.
    means = groups[columns].median().to_numpy(dtype="float64", na_value=float("nan"))
    firsts = done.assign(group=groups.ngroup()).drop_duplicates("group").sort_values("group")
    heads = runs.per_head.join(groups.ngroup().rename("group"), on="case", how="inner")
    ranges = {str(name): own for name, own in _ranges(heads, columns)}
    # Captured inputs come first, as in `captured_first`; thousands of scenes are sorted at once.
    firsts = firsts.assign(is_made=firsts["layer"].isna())
    firsts = firsts.sort_values(["is_made", "inputs", "layer"], kind="stable")
    lines = []
    for _, first in firsts.head(MOST_LINES).iterrows():
        place = int(first["group"])
        numbers = [
            _number(means[place, number], ranges[descriptor.column].get(place), descriptor)
            for number, descriptor in enumerate(DESCRIPTORS)
        ]
        lines.append(([_word(name, first[name]) for name in shown], numbers))
    titles = [TITLES.get(name, name) for name in shown]
    return InputsTable(titles, lines, len(firsts) - len(lines))


def _ranges(
    heads: pd.DataFrame, columns: Sequence[str]
) -> Iterator[tuple[str, Mapping[int, tuple[float, float]]]]:
    """The smallest and the largest number of each group for each column, if they differ."""
    groups = heads.groupby("group")
    for name in columns:
        both = groups[name].agg(["min", "max"])
        both = both[both["min"] < both["max"]]
        yield name, dict(zip(both.index, zip(both["min"], both["max"], strict=True), strict=True))


def _number(mean: float, reach: tuple[float, float] | None, descriptor: Descriptor) -> Number:
    show = descriptor.show
    ends = "" if reach is None else f"{show(reach[0])} to {show(reach[1])}"
    return Number("" if pd.isna(mean) else show(float(mean)), ends)


def _word(name: str, value: object) -> str:
    if name == "causal":
        return "yes" if value else "no"
    return show_count(float(str(value))) if name == "seq_len" else str(value)
