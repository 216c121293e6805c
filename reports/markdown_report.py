"""report.md: the result of runs in a page of Markdown, for a pull request."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.answers_csv import FILE as ANSWERS
from reports.figures.drawn_figures import Drawings
from reports.figures.frontier import best_of
from reports.figures.scene_points import SceneLengths, main_length, points_of, scenes_of
from reports.html import origin
from reports.listing import reasons
from reports.markdown_table import table
from reports.metrics import ERROR, MEMORY, TIME, Metric, show_bytes, show_count
from reports.page.answer_data import PageQuestion
from reports.recommender.closing import closing_lines, longest
from reports.recommender.evidence import Evidence
from reports.rows import Runs
from reports.tables import status_counts

FILE = "report.md"
MOST_REASONS = 12
# Characters with a meaning in Markdown, in HTML or in the formulas of GitHub. A number in place of
# a character has none, while GitHub reads formulas before it removes backslashes.
ACTIVE = re.compile(r"[\\`*\[\]{}<>#|$~^&@!]|(?<![^\W_])_|_(?![^\W_])")


def write_markdown(
    runs: Runs,
    evidence: Evidence,
    asked: Sequence[PageQuestion],
    drawings: Drawings,
    out: Path,
) -> Path:
    """Write report.md into a folder that also holds the figures."""
    path = out / FILE
    parts = _parts(runs, evidence, asked, drawings, out)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def escaped(text: object) -> str:
    """A text from a file as one line of Markdown that shows it as it is."""
    line = " ".join(str(text).split())
    return ACTIVE.sub(lambda found: f"&#{ord(found[0])};", line)


def _parts(
    runs: Runs,
    evidence: Evidence,
    asked: Sequence[PageQuestion],
    drawings: Drawings,
    out: Path,
) -> Iterator[str]:
    yield "# Attention benchmark"
    origins: Mapping[str, Any] = runs.environments
    yield "\n".join(f"- {escaped(origin(*pair))}" for pair in origins.items())
    yield f"{len(runs.frame)} cases: {status_counts(runs.frame)}."
    said = closing_lines(evidence)
    if said:
        yield "## What to use"
        yield escaped(said[0])
        yield "\n".join(f"- {escaped(line)}" for line in said[1:])
    yield from _frontier(evidence, asked, runs.frame)
    yield from _failures(runs.frame)
    yield "## Figures and files"
    links = [
        f"- [{escaped(it.title)}]({_link(it.png, out)}) ([SVG]({_link(it.svg, out)})): "
        f"{escaped(it.conditions)}"
        for it in drawings.files
    ]
    links += [f"- {escaped(line)}" for line in drawings.left_out]
    links += [
        "- [report.html](report.html): the interactive page",
        f"- [{ANSWERS}]({ANSWERS}): the choice for each measured length and six error budgets",
        "- [cases.csv](cases.csv): all cases",
    ]
    yield "\n".join(links)


def _frontier(
    evidence: Evidence, asked: Sequence[PageQuestion], frame: pd.DataFrame
) -> Iterator[str]:
    """A table of the frontier at the length of the answers."""
    scenes = scenes_of(asked)
    if not scenes:
        return
    known = longest(evidence)
    scene, seq_len = known or (scenes[0].scene, main_length(scenes[0]))
    one: SceneLengths = next(it for it in scenes if it.scene == scene)
    points = points_of(one, frame)
    best = best_of(points[points["seq_len"] == seq_len], TIME, ERROR)
    exact = points.loc[(points["seq_len"] == seq_len) & points["is_exact"], TIME.column].min()
    yield f"## Frontier at {show_count(seq_len)} tokens"
    yield (
        f"{escaped(scene.words)}. No other method is both faster and, beyond the intervals, as "
        "accurate; methods that are no better than a baseline are left out. Of several layers, the "
        "error is that of the worst one."
    )
    lines = [
        [
            escaped(row["label"]),
            _bounded(row, TIME),
            "" if pd.isna(exact) else f"{exact / row[TIME.column]:.2f}",
            "" if pd.isna(row[MEMORY.column]) else show_bytes(row[MEMORY.column]),
            _bounded(row, ERROR),
        ]
        for _, row in best.iterrows()
    ]
    headings = ["method", "time", "times exact", "memory", "error"]
    yield table(headings, lines or [["none", "", "", "", ""]])


def _bounded(row: pd.Series[Any], metric: Metric) -> str:
    """A number with its interval."""
    names = (metric.column, metric.low, metric.high)
    value, low, high = (metric.show(row[str(name)]) for name in names)
    return f"{value} [{low}, {high}]"


def _failures(frame: pd.DataFrame) -> Iterator[str]:
    found = reasons(frame)
    if not found:
        return
    yield "## Cases that did not finish"
    yield table(
        ["status", "cases", "reason", "methods"],
        [
            [escaped(it.status), str(it.cases), escaped(it.reason), escaped(it.labels)]
            for it in found[:MOST_REASONS]
        ],
    )
    if len(found) > MOST_REASONS:
        rest = sum(it.cases for it in found[MOST_REASONS:])
        yield f"{rest} more cases with other reasons are in cases.csv."


def _link(path: Path, out: Path) -> str:
    return html.escape(path.relative_to(out).as_posix())
