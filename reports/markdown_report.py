"""report.md: the result of runs in a page of Markdown, for a pull request."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from bench.schema.validation import name_of
from reports.answers_csv import FILE as ANSWERS
from reports.budget_choices import BudgetChoice, budget_choices
from reports.figures.drawn_figures import Drawings
from reports.figures.scene_points import MEASURED, SceneLengths, main_length, scenes_of
from reports.html import origin
from reports.listing import reasons
from reports.markdown_table import table
from reports.metrics import show_bytes, show_count, show_error, show_ms
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
        yield "## The method to use"
        yield escaped(said[0])
        yield "\n".join(f"- {escaped(line)}" for line in said[1:])
    yield from _choices(evidence, asked)
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


def _choices(evidence: Evidence, asked: Sequence[PageQuestion]) -> Iterator[str]:
    """A table of the chosen methods at the length of the answers."""
    scenes = scenes_of(asked)
    if not scenes:
        return
    known = longest(evidence)
    scene, seq_len = known or (scenes[0].scene, main_length(scenes[0]))
    one: SceneLengths = next(it for it in scenes if it.scene == scene)
    yield f"## The choice for each error budget at {show_count(seq_len)} tokens"
    yield (
        f"{escaped(scene.words)}. Each row is the choice from its error budget up to that of the "
        "next row: the fastest method with the upper end of its error within the budget. If "
        "several are as fast up to noise, it is exact attention, or else the most accurate one. "
        "A method that is not listed is no better than a baseline, or a listed one is at least as "
        "fast at every budget that allows it. Of several layers, the error is that of the worst "
        "one."
    )
    lines = [_line(it) for it in budget_choices(one.lengths[seq_len])]
    headings = ["error budget from", "method", "time", "times exact", "memory", "error"]
    yield table(headings, lines or [["none", *[""] * 5]])


def _line(choice: BudgetChoice) -> list[str]:
    it = choice.chosen
    remark = "" if it.evidence == MEASURED else f" ({it.evidence})"
    return [
        f"{choice.max_error:g}",
        escaped(name_of(it.name)) + remark,
        _bounded(show_ms, it.time_ms, it.time_low, it.time_high),
        "" if isnan(it.times_exact) else f"{it.times_exact:.2f}",
        "" if isnan(it.memory_bytes) else show_bytes(it.memory_bytes),
        _bounded(show_error, it.error, it.error_low, it.error_high),
    ]


def _bounded(show: Callable[[float], str], value: float, low: float, high: float) -> str:
    """A number with its interval."""
    return f"{show(value)} [{show(low)}, {show(high)}]"


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
