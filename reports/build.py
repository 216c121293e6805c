"""Makes a folder with figures and a page from results folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from bench.schema.validation import FileError, is_file, name_of
from reports.answers_csv import write_answers
from reports.figures.drawn_figures import draw_figures
from reports.growth import FILE as GROWTH
from reports.growth import Audit, audit, table
from reports.html import ModelSection, page
from reports.markdown_report import write_markdown
from reports.page.answer_data import questions
from reports.page.downloads import write_cases
from reports.recommender.evaluation import evaluate
from reports.recommender.evidence import Evidence
from reports.rows import Runs, read_runs

MOST_EVALUATED = 5000  # rows; an evaluation of more takes longer than all the rest


def build_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html, report.md, answers.csv, cases.csv, growth.csv and figures into a folder.

    It is `out`, by default `report` in the first run.

    Returns:
        The path of report.html.
    """
    read = read_runs(runs)
    folder = out or Path(runs[0]) / "report"
    return write_report(read, folder, audit(read.frame), Evidence(read))


def write_report(
    runs: Runs,
    out: Path,
    audited: Audit,
    evidence: Evidence,
    model: ModelSection | None = None,
    models: pd.DataFrame | None = None,
) -> Path:
    """Like `build_report`, for runs that are already read, with their growth and their evidence.

    `model` is a section about runs of models, and `models` are the rows of these.
    """
    target = out / "report.html"
    asked = questions(evidence)
    drawings = draw_figures(asked, runs.frame, figures_folder(out))
    downloads = write_cases(runs.frame, out)
    evaluated = evaluate(runs, models) if len(runs.frame) <= MOST_EVALUATED else ()
    answers = write_answers(asked, out)
    downloads = replace(downloads, names=(*downloads.names, answers.name))
    text = page(runs, drawings, audited, asked, model, downloads, evaluated)
    target.write_text(text, encoding="utf-8")
    table(audited).to_csv(out / GROWTH, index=False)
    write_markdown(runs, evidence, asked, drawings, out)
    return target


def figures_folder(out: Path) -> Path:
    """The folder for the figures of a report.

    Raises:
        FileError: `out` is a file.
    """
    if is_file(out):
        raise FileError(f"expected a folder for the report, got the file {name_of(out)}")
    return out / "figures"
