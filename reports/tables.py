"""Text of a report: the summary in a terminal, and the command that measures a row again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bench.schema.case import Case
from reports.answers import Answer, answers, summary_of
from reports.metrics import Metric
from reports.slices import common, describe, split

SUMMARY_ROWS = 60  # the most rows, including the heading of each group
NAME_WIDTH = 20  # characters that the names of methods have at least
WIDEST_NAME = 32  # longer names are folded before a column is left out
PADDING = 2  # characters beside each column
LEFT_OUT = (2, 1)  # places of the metrics that a narrow table leaves out, the first one first


def summary_table(frame: pd.DataFrame, width: int | None = None) -> Table:
    """A table for the terminal: the methods worth choosing by length, dtype and direction.

    With a `width` in characters, columns that do not fit beside the names of the methods are left
    out: first the memory or state, then the speedup.
    """
    parts = split(frame)
    alike = [part for part in parts if part.sort == parts[0].sort]
    found = [(part, answer) for part in alike for answer in answers(part)]
    scenes = [{**part.fixed, **answer.scene} for part, answer in found]
    shared = common(scenes) if scenes else {}
    metrics = summary_of(alike[0])
    table = Table(
        title=describe(shared),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    kept = _that_fit(metrics, [answer for _, answer in found], width)
    table.add_column("worth choosing", overflow="fold", min_width=NAME_WIDTH)
    for place in kept:
        table.add_column(metrics[place].short, justify="right", no_wrap=True)
    left_out = 0
    for number, ((_, answer), scene) in enumerate(zip(found, scenes, strict=True)):
        lines = 1 + max(1, len(answer.choices)) + bool(answer.useless)
        if number and table.row_count + lines > SUMMARY_ROWS:
            left_out = len(found) - number
            break
        own = {name: value for name, value in scene.items() if name not in shared}
        title = describe(own) or f"error below {answer.limit_in_words}"
        table.add_section()
        table.add_row(Text(title, "bold"))
        for choice in answer.choices:
            table.add_row(f"  {choice.label}", *(choice.numbers[place] for place in kept))
        if not answer.choices:
            table.add_row(f"  none has an error below {answer.limit_in_words}")
        if answer.useless:
            count = f"{answer.useless} of {answer.useless + answer.useful}"
            table.add_row(Text(f"  {count} are no better than a baseline", "dim"))
    more = f"{left_out} more lengths or directions on the page. " if left_out else ""
    table.caption = (
        "No other method is both faster and, beyond the intervals, as accurate. A baseline is the "
        "mean of the values, zeros, or equally many random keys. "
        f"{more}{len(frame)} cases: {status_counts(frame)}"
    )
    return table


def _that_fit(
    metrics: Sequence[Metric], found: Sequence[Answer], width: int | None
) -> Sequence[int]:
    """The places of the metrics that fit into a width, in their order."""
    kept = list(range(len(metrics)))
    if width is None:
        return kept
    choices = [choice for answer in found for choice in answer.choices]
    needed = [
        PADDING + max(len(metric.short), *(len(c.numbers[place]) for c in choices), 0)
        for place, metric in enumerate(metrics)
    ]
    names = max([len(choice.label) + 2 for choice in choices], default=0)
    room = width - PADDING - min(max(names, NAME_WIDTH), WIDEST_NAME)
    for place in LEFT_OUT:
        if sum(needed[each] for each in kept) > room:
            kept.remove(place)
    return kept


def status_counts(frame: pd.DataFrame) -> str:
    """How the cases ended: `640 ok, 12 timeout`."""
    counts = frame["status"].value_counts()
    return ", ".join(f"{count} {str(status).replace('_', ' ')}" for status, count in counts.items())


def reproduce_command(row: pd.Series) -> str:
    """The command that measures a row again; it names every column of the case."""
    spelled = {name: _spelled(row[name]) for name in Case.columns() if pd.notna(row[name])}
    device = spelled.pop("device")
    settings = spelled.pop("hyperparameters")
    spelled["variant"] = f"{spelled['variant']} {settings}".strip()
    words = [_quoted(f"{name}={value}") for name, value in spelled.items()]
    imports = [f"--import {_quoted(module)}" for module in row["modules"].split()]
    return " ".join(
        [
            "python -m bench run",
            *imports,
            "--device",
            _quoted(device),
            *(f"--set {word}" for word in words),
        ]
    )


def _spelled(value: object) -> str:
    return str(value).lower() if pd.api.types.is_bool(value) else str(value)


def _quoted(word: str) -> str:
    """A word for a shell: bare or in double quotes if that is safe in every shell."""
    if re.fullmatch(r"[\w.=:+/,-]+", word):
        return word
    return f'"{word}"' if re.fullmatch(r"[\w .=:+/,()-]+", word) else shlex.quote(word)
