"""The machines that measured rows, and the rows that were measured again, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports.rows import Runs

MOST_NAMED = 4  # machines or reasons that a sentence lists


def of_machines(runs: Runs) -> dict[str, list[str]]:
    """Sentences for each kind of machine; older runs have none."""
    frame = runs.frame
    return {name: list(_sentences(frame[frame["machine"] == name])) for name in runs.environments}


def _sentences(rows: pd.DataFrame) -> Iterator[str]:
    hosts = _known(rows["host"]).value_counts()
    if len(hosts):
        gpus = _known(rows["device_id"]).nunique()
        counts = _listed([str(count) for count in hosts])
        machines = _counted(len(hosts), "machine")
        with_gpus = f" with {_counted(gpus, 'GPU')}" if gpus else ""
        word = "row" if hosts.sum() == 1 else "rows"
        one = "; the table describes one of them" if len(hosts) > 1 else ""
        yield f"{machines} of this kind{with_gpus} measured {counts} {word}{one}."
    again = _known(rows["repeated_because"]).value_counts()
    if len(again):
        verb = "row was" if again.sum() == 1 else "rows were"
        reasons = _listed([f"{why} ({count})" for why, count in again.items()])
        yield f"{again.sum()} {verb} measured again: {reasons}."


def _known(texts: pd.Series[str]) -> pd.Series[str]:
    return texts[texts.fillna("") != ""]


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("s" if number != 1 else "")


def _listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`; of many, the first and the number of others."""
    if len(words) > MOST_NAMED:
        words = [*words[:MOST_NAMED], f"{len(words) - MOST_NAMED} more"]
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
