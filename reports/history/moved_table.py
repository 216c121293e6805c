"""The table of what moved last, in a terminal and as CSV, and the file of all points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from reports.history.metric_series import MachineHistory, MetricSeries, TrackedCommitRuns
from reports.history.step_search import FEWEST, Step
from reports.page.downloads import without_formulas

BETTER, WORSE = "better", "worse"
DAY = "%Y-%m-%d"


@dataclass(frozen=True)
class Move:
    """A step of a series: `previous` is the last commit before it that was measured."""

    machine: MachineHistory
    series: MetricSeries
    step: Step
    commit: TrackedCommitRuns
    previous: TrackedCommitRuns

    @property
    def direction(self) -> str:
        """Whether the metric became better or worse."""
        is_lower = self.step.after < self.step.before
        return BETTER if is_lower == (self.series.metric.better == "lower") else WORSE

    @property
    def change(self) -> str:
        """The ratio after / before, with the digits that a small change needs: `×1.046`."""
        return show_change(self.step.ratio)

    @property
    def shown_pair(self) -> tuple[str, str]:
        """The levels before and after the step, in words."""
        return self.series.metric.shown_pair(self.step.before, self.step.after)

    @property
    def size(self) -> float:
        """The distance of the ratio from 1 on a logarithmic scale."""
        ratio = self.step.ratio
        return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def show_change(ratio: float) -> str:
    """A ratio: ×1.046; ×0.500; ×12.3; ×1.000041; ×∞ if the level was zero before."""
    if not math.isfinite(ratio):
        return "×∞"
    if abs(ratio - 1) < 5e-4:
        return f"×{ratio:.6f}"
    return f"×{ratio:.3f}" if ratio < 10 else f"×{ratio:.3g}"


def moves(machines: Sequence[MachineHistory]) -> list[Move]:
    """All steps, the newest commit first, and the greatest change of a commit first."""
    found = list(_moves(machines))
    return sorted(found, key=lambda move: (-move.commit.time.timestamp(), -move.size))


def _moves(machines: Sequence[MachineHistory]) -> Iterator[Move]:
    for machine in machines:
        for series in machine.series:
            measured = sorted({point.commit for point in series.points if not point.is_dirty})
            for step in series.steps:
                previous = machine.commits[measured[measured.index(step.at) - 1]]
                yield Move(machine, series, step, machine.commits[step.at], previous)


def unsearched(machines: Sequence[MachineHistory]) -> str:
    """A sentence if series of times have too few commits for the search; empty if none has."""
    series = [one for machine in machines for one in machine.series if one.metric.has_noise]
    enough = sum(one.has_enough_commits for one in series)
    if enough == len(series):
        return ""
    return (
        f"Steps of times and speedups need {FEWEST} commits: {enough} of {len(series)} series "
        "have them."
    )


def steps_frame(found: Sequence[Move]) -> pd.DataFrame:
    """A row for each step, for steps.csv."""
    columns = (
        *("fingerprint", "machine", "case", "metric", "unit", "before", "after", "ratio"),
        *("direction", "commit", "commit_time", "previous_commit", "has_noise"),
    )
    rows = [
        (
            move.machine.fingerprint,
            move.machine.name,
            move.series.label,
            move.series.metric.name,
            move.series.metric.unit,
            move.step.before,
            move.step.after,
            move.step.ratio,
            move.direction,
            move.commit.name,
            move.commit.time.isoformat(),
            move.previous.name,
            move.series.metric.has_noise,
        )
        for move in found
    ]
    return without_formulas(pd.DataFrame(rows, columns=columns))


def history_frame(machines: Sequence[MachineHistory]) -> pd.DataFrame:
    """A row for each number of each run, for history.csv. The columns of the case are last."""
    rows = [
        {
            "fingerprint": machine.fingerprint,
            "commit": machine.commits[point.commit].name,
            "commit_time": machine.commits[point.commit].time.isoformat(),
            "run_time": point.run.run_time.isoformat(),
            "dirty": point.is_dirty,
            "file": point.run.path.name,
            "label": series.label,
            "metric": series.metric.name,
            "unit": series.metric.unit,
            "value": point.reading.value,
            "low": point.reading.low,
            "high": point.reading.high,
            "implementation_used": point.implementation,
            **series.case,
        }
        for machine in machines
        for series in machine.series
        for point in series.points
    ]
    return without_formulas(pd.DataFrame(rows))


def terminal_table(found: Sequence[Move], most: int) -> Table:
    """The table of what moved last, with at most this number of rows."""
    table = Table(
        title="Moved last: the newest commit first",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("case", overflow="fold")
    for name, side in (
        *(("metric", "left"), ("before", "right"), ("after", "right"), ("ratio", "right")),
        *(("", "left"), ("commit", "left"), ("date", "left"), ("machine", "left")),
    ):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for move in found[:most]:
        table.add_row(
            move.series.label,
            move.series.metric.short,
            *move.shown_pair,
            move.change,
            Text(move.direction, "red" if move.direction == WORSE else "green"),
            move.commit.short,
            move.commit.time.astimezone(UTC).strftime(DAY),
            move.machine.fingerprint,
        )
    if len(found) > most:
        table.caption = f"{len(found) - most} more steps are in steps.csv"
    return table
