"""The HTML page: one file with its data, figures, tables and scripts. It needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from matplotlib.colors import to_hex

from reports import accuracy_page, growth, measured_by, noise
from reports.answers import answers, summary_of
from reports.baselines import MEAN
from reports.figures.kinds import Kind
from reports.figures.style import Styles, styles
from reports.head_counts import comparisons
from reports.inputs_page import DESCRIPTORS, described
from reports.listing import Listing, listing, reasons
from reports.metrics import show_bytes, show_count
from reports.page import chart
from reports.page.answer_data import PageQuestion, answer_tables, default_question
from reports.page.case_data import case_facts, case_tables
from reports.page.downloads import Downloads
from reports.page.packing import packed
from reports.peer_races import ALLOCATORS, by_attention, races, standing
from reports.recommender import evaluation_tables
from reports.recommender.evaluation import Summary
from reports.rows import Runs
from reports.slices import DIRECTIONS, Fixed, Slice, describe
from reports.tables import status_counts

TEMPLATE = "report.html"
MODEL_ONLY = "page/model_only.html"
SCRIPTS = ("unpack", "choose", "words", "questions", "answer_view", "frontier_view", "cases_view")
LAST_SCRIPTS = ("subjects_view", "start")
PIXELS_PER_PIXEL = 1.5  # pixels of a figure for each pixel of the page
MOST_EMBEDDED = 6 * 2**20  # bytes of figures in the page; others stay files beside it
NO_FILES = Downloads(())
ENVIRONMENT_PARTS = ("model", "hardware", "software", "limits", "settings")


@dataclass(frozen=True)
class Drawing:
    """A figure in a file, or the reason why there is none, and the texts about it."""

    kind: Kind
    part: Slice
    path: Path | None
    conditions: str = ""
    also: str = ""
    is_of_one_setting: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Section:
    """A slice on the page: its answers, its errors and its figures."""

    anchor: str
    title: str
    part: Slice
    accuracy: Sequence[accuracy_page.AccuracyTable]
    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class ModelGroup:
    """A figure of models: the values that its rows share, its file, and its rows as a table."""

    fixed: Fixed
    path: Path
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
    drawings: Sequence[Drawing],
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
        sorts={drawing.part.sort for drawing in drawings},
        held_against=runs.frame[MEAN].notna().any(),
        others=sorted(runs.frame.loc[runs.frame["other_operator"], "variant"].unique()),
        projections=(runs.frame["call"] != "").any(),
        races=by_attention(against),
        standing=standing(against),
        allocators=ALLOCATORS,
        inputs=described(runs),
        descriptors=DESCRIPTORS,
        growth=audited,
        growth_margin=growth.MARGIN,
        evaluation={
            "headings": evaluation_tables.HEADINGS,
            "rows": evaluation_tables.rows(evaluated),
            "goals": evaluation_tables.goals(evaluated),
        },
        sections=list(_sections(drawings)),
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
    cases = packed(case_tables(runs.frame, listed), {"columns": case_facts(listed)})
    answer_data = ""
    if asked:
        known = {
            "first": default_question(asked),
            "methods": _looks(runs, styles(runs.frame)),
            "inputs": dict.fromkeys(sorted({it.scene.inputs.split(" ")[0] for it in asked}), 1),
        }
        answer_data = packed(answer_tables(asked), known)
    folder = Path(__file__).parent / "page"
    texts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS + LAST_SCRIPTS]
    return {
        "answer_data": answer_data,
        "case_data": cases,
        "library": chart.library() if asked else "",
        # Bokeh reads an object before references to it, so the order of keys must stay.
        "chart": htmlsafe_json_dumps(chart.frontier_chart(), sort_keys=False) if asked else "",
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
        "source": FigureSources(),
        "width": width,
        "exponent": growth.show_exponent,
        "describe": describe,
        "answers": answers,
        "result": result,
        "metrics": summary_of,
        "comparisons": comparisons,
    }
    return environment.get_template(template).render(**names)


class FigureSources:
    """The source of each figure of a page: the first figures are in the page, others are files."""

    def __init__(self) -> None:
        self._room = MOST_EMBEDDED

    def __call__(self, path: Path) -> str:
        """A data URL while there is room, otherwise the path of the file beside the page."""
        size = path.stat().st_size
        if size > self._room:
            return f"{path.parent.name}/{path.name}"
        self._room -= size
        return embedded(path)


def embedded(path: Path) -> str:
    """A PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def width(path: Path) -> int:
    """The width of a PNG file on the page; with it, letters have one size in all figures."""
    pixels = int.from_bytes(path.read_bytes()[16:20], "big")  # the width in the PNG header
    return round(pixels / PIXELS_PER_PIXEL)


def facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts about a machine and its run, as names and values."""
    if start := environment.get("started_utc"):
        yield "started (UTC)", start[:16].replace("T", " ")
    if name := environment.get("sweep", {}).get("name"):
        yield "sweep", name
    for part in ENVIRONMENT_PARTS:
        yield from _flat(environment.get(part), "")


def result(part: Slice) -> str:
    """One sentence for those who cannot see the figures: the frontier at the longest length."""
    found = answers(part) if part.sort != "width" else []
    if not found:
        return ""
    longest = max(found, key=lambda answer: answer.scene["seq_len"])
    chosen = [f"{it.label} {it.numbers[0]}, error {it.numbers[-1]}" for it in longest.choices]
    return f"On the frontier, {describe(longest.scene)}: {'; '.join(chosen) or 'none'}."


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


def _sections(drawings: Sequence[Drawing]) -> Iterator[Section]:
    parts = list({id(drawing.part): drawing.part for drawing in drawings}.values())
    errors = accuracy_page.tables(parts)
    for number, (part, tables) in enumerate(zip(parts, errors, strict=True), start=1):
        own = [drawing for drawing in drawings if drawing.part is part]
        yield Section(f"part-{number}", describe(part.fixed), part, tables, own)
