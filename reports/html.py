"""The HTML page: one file with its figures, tables and script. It needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports import accuracy_page, growth, measured_by, noise
from reports.answers import answers, summary_of
from reports.figures.kinds import Kind
from reports.head_counts import comparisons
from reports.inputs_page import DESCRIPTORS, described
from reports.listing import listing, reasons
from reports.metrics import show_bytes, show_count
from reports.peer_races import ALLOCATORS, by_attention, races, standing
from reports.rows import Runs
from reports.slices import DIRECTIONS, Slice, describe
from reports.tables import status_counts

TEMPLATE = "report.html"
PIXELS_PER_PIXEL = 1.5  # pixels of a figure for each pixel of the page
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


def page(runs: Runs, drawings: Sequence[Drawing], audited: growth.Audit) -> str:
    """The text of report.html."""
    against = races(runs.frame)
    return render(
        TEMPLATE,
        directions=DIRECTIONS,
        sorts={drawing.part.sort for drawing in drawings},
        held_against=runs.frame[accuracy_page.MEAN].notna().any(),
        others=runs.frame["other_operator"].any(),
        projections=(runs.frame["call"] != "").any(),
        races=by_attention(against),
        standing=standing(against),
        allocators=ALLOCATORS,
        inputs=described(runs),
        descriptors=DESCRIPTORS,
        growth=audited,
        growth_margin=growth.MARGIN,
        sections=list(_sections(drawings)),
        machines={
            name: list(facts(environment)) for name, environment in runs.environments.items()
        },
        noise=noise.of_machines(runs),
        measured=measured_by.of_machines(runs),
        counts=status_counts(runs.frame),
        cases=len(runs.frame),
        reasons=reasons(runs.frame),
        listing=listing(runs.frame),
    )


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
        "embedded": embedded,
        "width": width,
        "exponent": growth.show_exponent,
        "describe": describe,
        "answers": answers,
        "metrics": summary_of,
        "comparisons": comparisons,
    }
    return environment.get_template(template).render(**names)


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
