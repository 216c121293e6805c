"""The series of one metric of one case on one kind of machine, over commits."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.schema.case import Case
from reports.history.step_search import FEWEST, Step, exact_steps, noisy_steps
from reports.history.stored_files import TrackedRun
from reports.history.tracked_metrics import METRICS, TrackedMetric, TrackedNumber, reading
from reports.machine_columns import machine_name


@dataclass(frozen=True)
class TrackedCommitRuns:
    """A place on the axis of a machine: a commit, or a run without a known commit."""

    name: str
    time: datetime
    runs: Sequence[TrackedRun]

    @property
    def short(self) -> str:
        """The start of the commit id, as git shortens it."""
        is_known = self.runs[0].content.commit_info.is_known
        return self.name[:9] if is_known else "no commit"


@dataclass(frozen=True)
class SeriesPoint:
    """A number of one run at the commit with this number. Steps do not use dirty runs: a dirty run
    measured changes that are in no commit."""

    commit: int
    run: TrackedRun
    reading: TrackedNumber
    implementation: str

    @property
    def is_dirty(self) -> bool:
        return self.run.content.commit_info.dirty


@dataclass(frozen=True)
class MetricSeries:
    """The points of a metric of a case, and its steps. `at` of a step is the number of a commit.

    `note` says why no steps were searched for.
    """

    metric: TrackedMetric
    label: str
    case: Mapping[str, Any]
    points: Sequence[SeriesPoint]
    steps: Sequence[Step]
    note: str

    @property
    def has_enough_commits(self) -> bool:
        """Whether steps of numbers with noise can be searched for."""
        return len({point.commit for point in self.points if not point.is_dirty}) >= FEWEST


@dataclass(frozen=True)
class MachineHistory:
    """All series of one fingerprint."""

    fingerprint: str
    facts: Mapping[str, Any]
    commits: Sequence[TrackedCommitRuns]
    series: Sequence[MetricSeries]

    @property
    def name(self) -> str:
        """The machine in words: device, processor or GPU, threads, cores, torch."""
        hardware = self.facts["hardware"]
        parts = [machine_name(self.facts, "cuda" if hardware.get("gpu") else "cpu")]
        if cores := hardware.get("cores"):
            parts.append(f"{cores} cores")
        if torch := self.facts["software"].get("torch"):
            parts.append(f"torch {torch}")
        return ", ".join(parts)


def histories(runs: Sequence[TrackedRun]) -> list[MachineHistory]:
    """The history of each fingerprint, the one with the newest commit first."""
    by_machine: dict[str, list[TrackedRun]] = {}
    for run in runs:
        by_machine.setdefault(run.fingerprint, []).append(run)
    found = [_history(name, own) for name, own in by_machine.items()]
    return sorted(found, key=lambda it: it.commits[-1].time, reverse=True)


def _history(fingerprint: str, runs: Sequence[TrackedRun]) -> MachineHistory:
    commits = _commits(runs)
    points: dict[tuple[str, str], list[SeriesPoint]] = {}
    cases: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for number, commit in enumerate(commits):
        for run in commit.runs:
            for benchmark in run.content.benchmarks:
                key = _key(benchmark.case)
                cases[key] = (_label(benchmark.case, benchmark.group), benchmark.case)
                for metric in METRICS:
                    if (seen := reading(metric, benchmark)) is not None:
                        point = SeriesPoint(number, run, seen, benchmark.implementation_used)
                        points.setdefault((key, metric.name), []).append(point)
    series = [
        _series(metric, *cases[key], points[key, metric.name])
        for key in sorted(cases, key=lambda key: cases[key][0])
        for metric in METRICS
        if (key, metric.name) in points
    ]
    facts = runs[-1].content.machine_info.facts
    return MachineHistory(fingerprint, facts, commits, series)


def _commits(runs: Sequence[TrackedRun]) -> list[TrackedCommitRuns]:
    """Runs of one commit are joined; runs without a known commit are not."""
    by_name: dict[str, list[TrackedRun]] = {}
    for number, run in enumerate(runs):
        commit = run.content.commit_info
        key = commit.id if commit.is_known else f"run {number}"
        by_name.setdefault(key, []).append(run)
    return [
        TrackedCommitRuns(own[0].content.commit_info.id, own[0].commit_time, own)
        for own in by_name.values()
    ]


def _key(case: Mapping[str, Any]) -> str:
    """The same text for the same case, also in files of versions that lacked columns."""
    try:
        return Case.id_of(case)
    except KeyError:  # a column of a later version
        return json.dumps(case, sort_keys=True)


def _label(case: Mapping[str, Any], group: str) -> str:
    """The method with its implementation and settings, and the shape."""
    asked = str(case.get("implementation") or "auto")
    settings = str(case.get("hyperparameters") or "none")
    parts = [str(case["variant"]) if asked == "auto" else f"{case['variant']}/{asked}"]
    parts += [settings] * (settings not in ("none", ""))
    parts += [str(case["dtype"])] * (case.get("dtype", "float32") != "float32")
    return f"{' '.join(parts)} · {group}"


def _series(
    metric: TrackedMetric, label: str, case: Mapping[str, Any], points: Sequence[SeriesPoint]
) -> MetricSeries:
    clean = _clean(points)
    numbers = list(clean)
    values = [statistics.median(reading.value for reading in own) for own in clean.values()]
    steps: list[Step] = []
    note = ""
    if metric.agree is not None:
        steps = exact_steps([_middle(own) for own in clean.values()], metric.agree)
    elif min(values, default=1) <= 0:
        note = "a number is not positive"
    elif len(values) < FEWEST:
        note = f"{len(values)} commits; steps need {FEWEST}"
    else:
        steps = noisy_steps(values)
    moved = [Step(numbers[step.at], step.before, step.after) for step in steps]
    return MetricSeries(metric, label, case, points, moved, note)


def _clean(points: Sequence[SeriesPoint]) -> dict[int, list[TrackedNumber]]:
    """The numbers of the runs of each commit, without dirty runs."""
    by_commit: dict[int, list[TrackedNumber]] = {}
    for point in points:
        if not point.is_dirty:
            by_commit.setdefault(point.commit, []).append(point.reading)
    return by_commit


def _middle(numbers: Sequence[TrackedNumber]) -> TrackedNumber:
    """One of the numbers: the middle one, or the lower one of two."""
    ordered = sorted(numbers, key=lambda number: (number.value, number.rounding))
    return ordered[(len(ordered) - 1) // 2]
