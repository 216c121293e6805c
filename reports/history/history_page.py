"""Writes the page of the history, and its tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from bench.schema.machine_kind import kind
from reports.history.history_chart import history_chart
from reports.history.metric_series import MachineHistory
from reports.history.moved_table import DAY, Move, history_frame, steps_frame, unsearched
from reports.history.sparkline import sparkline
from reports.history.step_search import CORRELATED_FALSE, FEWEST, MOST_FALSE, SHORTEST
from reports.history.tracked_metrics import METRICS
from reports.html import render
from reports.page import chart
from reports.page.packing import packed

PAGE, STEPS, NUMBERS = "history.html", "steps.csv", "history.csv"
SHOWN_ROWS = 100  # of the table of what moved last; steps.csv has all
SCRIPTS = (
    *("page/unpack", "page/words", "page/elements", "page/chart_parts"),
    *("history/series_chart", "history/series_view"),
)


def write_history(
    machines: Sequence[MachineHistory], found: Sequence[Move], skipped: Sequence[str], out: Path
) -> Path:
    """Write history.html, steps.csv and history.csv into a folder; return the path of the page.

    All texts are made before the first file is replaced.
    """
    texts = {
        NUMBERS: history_frame(machines).to_csv(index=False),
        STEPS: steps_frame(found).to_csv(index=False),
        PAGE: history_page(machines, found, skipped),
    }
    out.mkdir(parents=True, exist_ok=True)
    partial = {name: out / f"{name}.partial" for name in texts}
    for name, text in texts.items():
        partial[name].write_text(text, encoding="utf-8")
    for name, path in partial.items():
        os.replace(path, out / name)
    return out / PAGE


def history_page(
    machines: Sequence[MachineHistory], found: Sequence[Move], skipped: Sequence[str]
) -> str:
    """The text of history.html."""
    every = [(machine, series) for machine in machines for series in machine.series]
    numbers = {id(series): number for number, (_, series) in enumerate(every)}
    noisy = [series for _, series in every if series.metric.has_noise]
    searched = sum(not series.note for series in noisy)
    folder = Path(__file__).parents[1]
    scripts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return render(
        "history/history.html",
        machines=[
            {"history": it, "facts": _facts(it), "newest": it.commits[-1].time.strftime(DAY)}
            for it in machines
        ],
        rows=[(numbers[id(it.series)], it, sparkline(it)) for it in found[:SHOWN_ROWS]],
        moved=len(found),
        shown_rows=SHOWN_ROWS,
        skipped=skipped,
        fewest=FEWEST,
        shortest=SHORTEST,
        unsearched=unsearched(machines),
        most_false=MOST_FALSE,
        correlated_false=CORRELATED_FALSE,
        searched=searched,
        too_short=len(noisy) - searched,
        steps_of_times=sum(len(series.steps) for series in noisy),
        data=_data(machines),
        library=chart.library(),
        chart=htmlsafe_json_dumps(history_chart(), sort_keys=False),
        scripts=Markup("\n".join(scripts)),
    )


def _facts(machine: MachineHistory) -> list[tuple[str, str]]:
    """The facts that the fingerprint stands for, as names and values."""
    return [(name, str(value)) for name, value in kind(machine.facts).items() if value]


def _data(machines: Sequence[MachineHistory]) -> str:
    """All series as packed tables."""
    every = [(number, it) for number, machine in enumerate(machines) for it in machine.series]
    points = pd.DataFrame(
        [
            (
                *(number, point.commit, point.reading.value, point.reading.low, point.reading.high),
                *(point.is_dirty, point.implementation, point.run.run_time.strftime("%F %H:%M")),
            )
            for number, (_, it) in enumerate(every)
            for point in it.points
        ],
        columns=["series", "commit", "value", "low", "high", "dirty", "implementation", "run"],
    )
    steps = pd.DataFrame(
        [
            (number, step.at, step.before, step.after)
            for number, (_, it) in enumerate(every)
            for step in it.steps
        ],
        columns=["series", "at", "before", "after"],
    )
    series = pd.DataFrame(
        {
            "machine": [number for number, _ in every],
            "label": [it.label for _, it in every],
            "metric": [it.metric.name for _, it in every],
            "note": [it.note for _, it in every],
        }
    )
    facts = {
        "machines": [
            {
                "name": f"{machine.name} ({machine.fingerprint})",
                "commits": [
                    {"id": it.name, "short": it.short, "date": it.time.strftime(DAY)}
                    for it in machine.commits
                ],
            }
            for machine in machines
        ],
        "metrics": {
            it.name: {
                "label": it.label,
                "short": it.short,
                "show": it.show.__name__,
                "better": it.better,
                "hasNoise": it.has_noise,
                "unit": it.unit,
                "isCount": it.is_count,
            }
            for it in METRICS
        },
    }
    tables = {"points": points, "steps": steps, "series": series}
    return packed({name: {str(k): v for k, v in it.items()} for name, it in tables.items()}, facts)
