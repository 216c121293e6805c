"""Shows an evaluation: tables for a terminal, goals, and records for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from reports.recommender.evaluation import Intervals, Summary

NOTHING = "–"
HEADINGS = (
    "left out",
    "questions",
    "answered",
    "approximations",
    "of these, limit exceeded for sure",
    "of all answers",
    "by value",
    "regret: median",
    "95 %",
    "largest",
    "gap closed to exact",
    "to the single best",
    "times in interval",
    "errors in interval",
)
SHOWN_COVERAGES = (0.2, 0.4, 0.6, 0.8, 1.0)


def rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """The cells of the table, under `HEADINGS`."""
    return [
        [
            f"{one.kind} ({one.parts})",
            str(one.questions),
            percent(one.answered),
            str(one.approximations),
            percent(one.approximations_violated),
            percent(one.violated),
            percent(one.exceeded),
            *map(percent, one.regret),
            percent(one.gap_to_exact),
            percent(one.gap_to_single),
            _contained(one.times),
            _contained(one.errors),
        ]
        for one in summaries
    ]


def terminal_table(summaries: Sequence[Summary]) -> Table:
    """The table for a terminal."""
    shown = Table(title="answers to questions about rows that were left out")
    for number, heading in enumerate(HEADINGS):
        shown.add_column(heading, justify="right" if number else "left", no_wrap=not number)
    for cells in rows(summaries):
        shown.add_row(*cells)
    return shown


def risk_table(summaries: Sequence[Summary]) -> Table:
    """Limits that are exceeded by value, among the most confident answers."""
    title = "answers that exceed a limit by value, among the most confident share of all questions"
    shown = Table(title=title)
    shown.add_column("left out")
    for coverage in SHOWN_COVERAGES:
        shown.add_column(f"{coverage:.0%}", justify="right")
    for one in summaries:
        shown.add_row(one.kind, *risks(one))
    return shown


def risks(summary: Summary) -> list[str]:
    """The cells of a row of the table of risks; coverages beyond the share answered are empty."""
    known = {risk.coverage: percent(risk.exceeded) for risk in summary.risks}
    return [known.get(coverage, NOTHING) for coverage in SHOWN_COVERAGES]


@dataclass(frozen=True)
class Goal:
    """A goal, the number that was reached, and whether it is met; None if nothing was measured."""

    text: str
    reached: str
    is_met: bool | None

    @property
    def state(self) -> str:
        said = {True: "met", False: "not met", None: "not measured"}[self.is_met]
        return f"{self.reached}, {said}" if self.is_met is not None else said


def goals(summaries: Sequence[Summary]) -> list[Goal]:
    """The goals of the recommender."""
    rates = [rate for s in summaries for rate in (s.violated, s.approximations_violated)]
    violated = max((rate for rate in rates if not math.isnan(rate)), default=math.nan)
    interior = next((one for one in summaries if one.kind == "interior length"), None)
    median, high, _ = interior.regret if interior else (math.nan,) * 3
    times, errors = (
        (interior.times.contained, interior.errors.contained) if interior else (math.nan,) * 2
    )
    return [
        _goal(
            "limits exceeded for sure, in every kind of fold: at most 2 %",
            violated,
            0,
            0.02,
        ),
        _goal("median regret, interior lengths: at most 2 %", median, 0, 0.02),
        _goal("95 % quantile of the regret, interior lengths: at most 15 %", high, 0, 0.15),
        _goal("times in their intervals, interior lengths: 90 to 97 %", times, 0.9, 0.97),
        _goal("errors in their intervals, interior lengths: 90 to 97 %", errors, 0.9, 0.97),
    ]


def _goal(text: str, value: float, least: float, most: float) -> Goal:
    known = not math.isnan(value)
    return Goal(text, percent(value), least <= value <= most if known else None)


def records(summaries: Sequence[Summary]) -> dict[str, Any]:
    """The evaluation for JSON; numbers that do not exist are None."""
    return {
        "folds": [_without_nan(asdict(one)) for one in summaries],
        "goals": [asdict(goal) for goal in goals(summaries)],
    }


def percent(share: float) -> str:
    """A share: `0 %`, `0.4 %`, `12 %`; a dash if there is none."""
    if math.isnan(share):
        return NOTHING
    value = 100 * share
    text = f"{value:.1f} %" if 0 < value < 9.95 else f"{value:.0f} %"
    return "0 %" if text == "-0 %" else text


def _contained(intervals: Intervals) -> str:
    return percent(intervals.contained)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
