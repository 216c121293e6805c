"""The HTML page: one file with its data, figures, tables and scripts. It needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from matplotlib.colors import to_hex

from reports import growth, measured_by, noise
from reports.baselines import MEAN
from reports.figures.drawn_figures import Drawings
from reports.figures.style import Styles, styles
from reports.head_counts import Comparison, comparisons
from reports.inputs_page import DESCRIPTORS, described
from reports.listing import Listing, listing, reasons
from reports.metrics import ERROR, show_bytes, show_count
from reports.page import chart, lines_chart
from reports.page.accuracy_data import accuracy_facts, accuracy_table, with_heads
from reports.page.answer_data import PageQuestion, answer_tables, default_question
from reports.page.case_data import case_facts, case_tables
from reports.page.downloads import Downloads
from reports.page.packing import packed
from reports.page.pattern_gallery import gallery
from reports.peer_races import ALLOCATORS, by_attention, races, standing
from reports.recommender import evaluation_tables
from reports.recommender.evaluation import Summary
from reports.rows import Runs
from reports.slices import DIRECTIONS, Fixed, describe, split
from reports.tables import status_counts

TEMPLATE = "report.html"
MODEL_ONLY = "page/model_only.html"
SCRIPTS = (
    *("unpack", "choose", "words", "elements", "questions", "series", "chart_parts"),
    *("answer_view", "ranking_view", "map_view", "frontier_view", "lines_view", "accuracy_view"),
    *("case_rows", "cases_view", "subjects_view", "controls", "start"),
)
NO_FILES = Downloads(())
MOST_LINES = 100  # of a table of curves; a file beside the page has all
MOST_TABLES = 12  # of heads at equal width
ENVIRONMENT_PARTS = ("model", "hardware", "software", "limits", "settings")


@dataclass(frozen=True)
class ModelGroup:
    """Rows of a model as a table, the values that they share, and the file of their figure; None
    if no row finished."""

    fixed: Fixed
    path: Path | None
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ModelSection:
    """Runs of `python -m bench model` as a section of the page."""

    groups: Sequence[ModelGroup]
    counts: str
    reading: str
    machines: Mapping[str, Sequence[tuple[str, str]]]
    measured: Mapping[str, Sequence[str]]
    is_alone: bool = False


def page(
    runs: Runs,
    drawings: Drawings,
    audited: growth.Audit,
    asked: Sequence[PageQuestion] = (),
    model: ModelSection | None = None,
    downloads: Downloads = NO_FILES,
    evaluated: Sequence[Summary] = (),
) -> str:
    """The text of report.html; `asked` are the questions that its first screen answers, and
    `evaluated` says how good the answers are."""
    against = races(runs.frame)
    listed = listing(runs.frame)
    return render(
        TEMPLATE,
        directions=DIRECTIONS,
        decodes=(runs.frame["direction"] == "decode").any(),
        held_against=runs.frame[MEAN].notna().any(),
        has_errors=runs.frame[ERROR.column].notna().any(),
        projections=(runs.frame["call"] != "").any(),
        races=by_attention(against),
        standing=standing(against),
        allocators=ALLOCATORS,
        inputs=described(runs),
        descriptors=DESCRIPTORS,
        patterns=gallery(runs.frame),
        growth=audited,
        growth_margin=growth.MARGIN,
        most_lines=MOST_LINES,
        evaluation={
            "headings": evaluation_tables.HEADINGS,
            "rows": evaluation_tables.rows(evaluated),
            "goals": evaluation_tables.goals(evaluated),
        },
        drawings=drawings,
        widths=list(islice(_at_equal_width(runs), MOST_TABLES)),
        machines={
            name: list(facts(environment)) for name, environment in runs.environments.items()
        },
        noise=noise.of_machines(runs),
        measured=measured_by.of_machines(runs),
        origins=[origin(*pair) for pair in runs.environments.items()],
        counts=status_counts(runs.frame),
        cases=len(runs.frame),
        reasons=reasons(runs.frame),
        listing=listed,
        model=model,
        downloads=downloads,
        **_interactive(runs, listed, asked),
    )


def model_page(model: ModelSection) -> str:
    """The text of report.html if all runs are those of models."""
    return render(MODEL_ONLY, model=model)


def _interactive(runs: Runs, listed: Listing, asked: Sequence[PageQuestion]) -> dict[str, Any]:
    """The data and the scripts of the page."""
    frame = with_heads(runs)
    tables = {**case_tables(runs.frame, listed), "accuracy": accuracy_table(frame)}
    about = {"columns": case_facts(listed), "accuracy": accuracy_facts(frame)}
    cases = packed(tables, about)
    answer_data = ""
    if asked:
        known = {
            "first": default_question(asked),
            "methods": _looks(runs, styles(runs.frame)),
            "machines": short_names(runs),
            "inputs": dict.fromkeys(sorted({it.scene.inputs.split(" ")[0] for it in asked}), 1),
        }
        answer_data = packed(answer_tables(asked), known)
    folder = Path(__file__).parent / "page"
    texts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return {
        "answer_data": answer_data,
        "case_data": cases,
        "library": chart.library() if asked else "",
        # Bokeh reads an object before references to it, so the order of keys must stay.
        "charts": {
            "frontier": htmlsafe_json_dumps(chart.frontier_chart(), sort_keys=False),
            "lines": htmlsafe_json_dumps(lines_chart.lines_chart(), sort_keys=False),
        }
        if asked
        else {},
        "scripts": Markup("\n".join(texts)),
    }


def _looks(runs: Runs, drawn: Styles) -> dict[str, dict[str, str]]:
    """The colour and the marker of each method, as in the figures."""
    rows = runs.frame.drop_duplicates("variant")
    looks = {row["variant"]: drawn[str(row["label"])] for _, row in rows.iterrows()}
    return {
        str(name): {
            "color": to_hex(look.color),
            "marker": chart.MARKERS.get(look.marker, "circle"),
        }
        for name, look in looks.items()
    }


def short_names(runs: Runs) -> dict[str, str]:
    """A short name for each machine: the sweep and the date of its run, as in `cpu, 2026-11-21`.

    Names that would not differ, and that of a single machine, stay as they are.
    """
    short = {
        name: ", ".join(
            filter(None, ((env.get("sweep") or {}).get("name"), env.get("started_utc", "")[:10]))
        )
        for name, env in runs.environments.items()
    }
    if len(short) == 1 or len(set(short.values())) < len(short) or not all(short.values()):
        return {name: name for name in short}
    return short


def render(template: str, **names: Any) -> str:
    """The text of a template."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": show_count,
        "beside": beside,
        "exponent": growth.show_exponent,
        "describe": describe,
    }
    return environment.get_template(template).render(**names)


def _at_equal_width(runs: Runs) -> Iterator[tuple[str, Comparison]]:
    """The tables of heads at equal width, with the words for their slice."""
    for part in split(runs.frame):
        if part.sort == "width":
            for comparison in comparisons(part):
                yield describe(part.fixed), comparison


def beside(path: Path) -> str:
    """The address of a figure in the folder beside the page."""
    return quote(f"{path.parent.name}/{path.name}")


def facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts about a machine and its run, as names and values."""
    if start := environment.get("started_utc"):
        yield "started (UTC)", start[:16].replace("T", " ")
    if name := environment.get("sweep", {}).get("name"):
        yield "sweep", name
    for part in ENVIRONMENT_PARTS:
        yield from _flat(environment.get(part), "")


def origin(name: str, environment: Mapping[str, Any]) -> str:
    """One line about a run: the machine, the sweep, the date, and the commit that measured."""
    commit = str((environment.get("software") or {}).get("commit") or "")[:9]
    sweep = (environment.get("sweep") or {}).get("name", "")
    parts = (
        name,
        f"sweep {sweep}" if sweep else "",
        str(environment.get("started_utc") or "")[:10],
        f"commit {commit}" if commit else "",
    )
    return " · ".join(filter(None, parts))


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif isinstance(value, int) and name.endswith("_bytes"):
        yield name.removesuffix("_bytes").replace("_", " "), show_bytes(value)
    elif value is not None and not isinstance(value, list):
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        yield name.replace("_", " ") if name.islower() else name, shown
