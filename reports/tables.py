"""Text of a report: the summary in a terminal, and the command that measures a row again."""

from __future__ import annotations

import re
import shlex

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from bench.measurement import CASE_COLUMNS
from reports.answers import numbers, summary_of
from reports.declared import exact_variant
from reports.metrics import TIME, show_count
from reports.rows import OK, finished
from reports.slices import Panel, common, describe, panels, split

SUMMARY_ROWS = 30  # at most, a heading for each group included


def summary_table(frame: pd.DataFrame) -> Table:
    """The fastest cases at the longest lengths of each dtype and direction, for a terminal."""
    part = split(frame)[0]
    metrics = summary_of(part)
    groups = panels(part.rows, x="seq_len", row="direction", column="dtype")
    groups = groups[: SUMMARY_ROWS // 4]
    chosen = [_longest(group, SUMMARY_ROWS // len(groups) - 1) for group in groups]
    scenes = [{"dtype": g.column, "direction": g.row, **g.fixed} for g in groups]
    shared = common(scenes)
    table = Table(
        title=escape(describe({**part.fixed, **shared})),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("variant", overflow="fold")
    for name in ("length", *(metric.short for metric in metrics)):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for scene, rows in zip(scenes, chosen, strict=True):
        own = {name: value for name, value in scene.items() if name not in shared}
        table.add_section()
        table.add_row(f"[bold]{escape(describe(own))}[/bold]")
        for _, row in rows.iterrows():
            table.add_row(
                f"  {escape(row['label'])}",
                show_count(row["seq_len"]),
                *numbers(row, metrics),
                row["status"],
            )
    shown = sum(map(len, chosen))
    table.caption = f"{shown} of {len(frame)} cases; in all: {status_counts(frame)}"
    return table


def status_counts(frame: pd.DataFrame) -> str:
    """How the cases ended: `640 ok, 12 timeout`."""
    counts = frame["status"].value_counts()
    return ", ".join(f"{count} {str(status).replace('_', ' ')}" for status, count in counts.items())


def reproduce_command(row: pd.Series) -> str:
    """The command that measures a row again; it names every column of the case."""
    spelled = {name: _spelled(row[name]) for name in CASE_COLUMNS if pd.notna(row[name])}
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


def _longest(panel: Panel, most: int) -> pd.DataFrame:
    """Rows from the longest length down, the fastest first, the fastest exact one always."""
    taken: list[pd.DataFrame] = []
    left = most
    for seq_len in sorted(panel.rows["seq_len"].unique(), reverse=True):
        rows = panel.rows[panel.rows["seq_len"] == seq_len]
        order = rows.assign(last=rows["status"] != OK).sort_values(["last", TIME.column, "label"])
        if len(order) > left:
            exact = finished(order)
            exact = exact[exact["variant"] == exact_variant()].head(1)
            head = order.head(left)
            if len(exact) and exact.index[0] not in head.index:
                head = pd.concat([order.head(left - 1), exact])
            order = head
        taken.append(order)
        left -= len(order)
        if left <= 2:
            break
    return pd.concat(taken)


def _spelled(value: object) -> str:
    return str(value).lower() if pd.api.types.is_bool(value) else str(value)


def _quoted(word: str) -> str:
    """A word of a shell: bare or in double quotes where that is safe in every shell."""
    if re.fullmatch(r"[\w.=:+/,-]+", word):
        return word
    return f'"{word}"' if re.fullmatch(r"[\w .=:+/,()-]+", word) else shlex.quote(word)
