"""Makes a folder with figures and a page from results folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.schema.validation import FileError, is_file, name_of
from reports.figures import single_heads
from reports.figures.kinds import KINDS, Kind
from reports.figures.panel_grid import draw
from reports.figures.plain_text import plain_text
from reports.figures.style import Styles, styles
from reports.growth import FILE as GROWTH
from reports.growth import Audit, audit, table
from reports.html import Drawing, ModelSection, page
from reports.page.answer_data import questions
from reports.page.downloads import write_cases
from reports.recommender.evaluation import evaluate
from reports.recommender.evidence import Evidence
from reports.rows import Runs, read_runs
from reports.slices import (
    Slice,
    also_measured,
    captured_first,
    common,
    describe,
    panels,
    split,
)

DOTS_PER_INCH = 150
MOST_EVALUATED = 5000  # rows; an evaluation of more takes longer than all the rest
MOST_ROWS = 8  # of panels in a figure; many layers would give dozens


def build_report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write figures, growth.csv, cases.csv and report.html into a folder.

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
    drawings = draw_all(runs, figures_folder(out))
    asked = questions(evidence)
    downloads = write_cases(runs.frame, out)
    evaluated = evaluate(runs, models) if len(runs.frame) <= MOST_EVALUATED else ()
    text = page(runs, drawings, audited, asked, model, downloads, evaluated)
    target.write_text(text, encoding="utf-8")
    table(audited).to_csv(out / GROWTH, index=False)
    return target


def figures_folder(out: Path) -> Path:
    """The folder for the figures of a report.

    Raises:
        FileError: `out` is a file.
    """
    if is_file(out):
        raise FileError(f"expected a folder for the report, got the file {name_of(out)}")
    return out / "figures"


def draw_all(runs: Runs, folder: Path) -> list[Drawing]:
    """Draw every figure of every slice to PNG files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    looks = styles(runs.frame)
    drawings = []
    for part in split(runs.frame):
        kinds = [kind for kind in KINDS if kind.sort == part.sort]
        drawings += [_draw_one(kind, part, looks, folder) for kind in kinds]
        drawings += _draw_heads(part, runs, looks, folder)
    return drawings


def _draw_one(kind: Kind, part: Slice, looks: Styles, folder: Path) -> Drawing:
    rows = kind.shown(part.rows)
    if missing := kind.missing(rows):
        return Drawing(kind, part, None, missing=missing)
    few, left_out = at_most(rows, kind.row)
    drawn = panels(few, x=kind.x_column, row=kind.row, column=kind.column)
    drawn = kind.worth_drawing(drawn)
    whole = [{kind.column: p.column, kind.row: p.row, **p.fixed} for p in drawn]
    shared = {**part.fixed, **common(whole)}
    path = _save(draw(kind, drawn, shared, looks), kind, part, folder)
    return Drawing(
        kind,
        part,
        path,
        describe(shared),
        "; ".join(filter(None, (also_measured(part.rows, drawn), left_out))),
        is_of_one_setting=len(rows) < len(part.rows),
    )


def at_most(rows: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """The rows of at most `MOST_ROWS` values of a column, evenly spread, and the rest in words.

    The column makes the rows of panels of a figure. Captured inputs come before synthetic ones.
    """
    first = {value: captured_first(own) for value, own in rows.groupby(column, sort=True)}
    if len(first) <= MOST_ROWS:
        return rows, ""
    values = sorted(first, key=lambda value: (first[value], str(value)))
    step = (len(values) - 1) / (MOST_ROWS - 1)
    kept = {values[round(number * step)] for number in range(MOST_ROWS)}
    more = f"{len(values) - len(kept)} more inputs and directions"
    return rows[rows[column].isin(kept)], more


def _draw_heads(part: Slice, runs: Runs, looks: Styles, folder: Path) -> list[Drawing]:
    """Draw the errors of single heads; empty unless several heads are known."""
    drawn = single_heads.drawn(part, runs.per_head)
    if not drawn:
        return []
    figure, shared = single_heads.draw(drawn, part, looks)
    kind = single_heads.KIND
    return [Drawing(kind, part, _save(figure, kind, part, folder), describe(shared))]


def _save(figure: Figure, kind: Kind, part: Slice, folder: Path) -> Path:
    path = folder / ("-".join(filter(None, (kind.name, part.name))) + ".png")
    save(figure, path)
    return path


@plain_text()
def save(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file, cropped to its content."""
    figure.savefig(path, dpi=DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.12)
