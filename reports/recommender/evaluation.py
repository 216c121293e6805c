"""Asks the recommender about rows that it has not seen, and summarises its answers.

Each kind of fold is summarised alone: a good average hides the kind that fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pandas as pd

from reports.recommender.choose import choose_within
from reports.recommender.evidence import Evidence
from reports.recommender.folds import Kind, folds
from reports.recommender.observations import Method
from reports.recommender.verdicts import Interval, Judged, Rule, Verdict, judge
from reports.rows import Runs

COVERAGES = tuple(tenth / 10 for tenth in range(1, 11))


@dataclass(frozen=True)
class Risk:
    """The shares of violated limits among the most confident answers.

    `coverage` is the share of all questions that these answers are. The least confident answers are
    replaced by exact attention.
    """

    coverage: float
    violated: float
    exceeded: float


@dataclass(frozen=True)
class Intervals:
    """How many predicted intervals contain the measured value, and how wide they are (upper end
    over lower end, median)."""

    number: int
    contained: float
    width: float


@dataclass(frozen=True)
class Summary:
    """The answers to the questions of one kind of fold. Shares are NaN if they are of nothing.

    Attributes:
        parts: how many parts of the rows were left out, one after another.
        questions: number of questions with a verdict.
        unknown: number of questions without one: the rows that were left out have no exact
            attention, or not the chosen method.
        answered: share of the questions to which a method was recommended. To the others, exact
            attention is the answer.
        approximations: number of answers that are no exact attention.
        approximations_violated: share of these that exceed a limit by the lower end of the measured
            interval.
        violated: share of the answers that exceed a limit by the lower end of the measured
            interval.
        exceeded: the same by the measured value.
        regret: 50 %, 95 % and 100 % quantiles of the time over that of the best method, minus 1.
        regret_by_value: the same, if the best method is that of the measured values.
        gap_to_exact: share of the logarithm of the time between always exact attention and the best
            methods that is saved.
        gap_to_single: the same from the method that is best if one method answers all questions.
        single: this method.
        times, errors: the predicted intervals.
        risks: by coverage, up to the share of answered questions.
    """

    kind: Kind
    parts: int
    questions: int
    unknown: int
    answered: float
    approximations: int
    approximations_violated: float
    violated: float
    exceeded: float
    regret: tuple[float, float, float]
    regret_by_value: tuple[float, float, float]
    gap_to_exact: float
    gap_to_single: float
    single: str
    times: Intervals
    errors: Intervals
    risks: Sequence[Risk]


def evaluate(
    runs: Runs, models: pd.DataFrame | None = None, rule: Rule = choose_within
) -> list[Summary]:
    """A summary for each kind of fold that the rows allow, in the order of `folds`.

    Args:
        runs: the runs as `read_runs` reads them.
        models: rows of model.csv, as for `Evidence`.
        rule: chooses a candidate. Tests pass a wrong one.
    """
    full = Evidence(runs, models)
    found: list[Summary] = []
    for kind, several in groupby(folds(runs.frame, full), key=lambda fold: fold.kind):
        judged: list[Judged] = []
        parts = 0
        for fold in several:
            parts += 1
            evidence = Evidence(replace(runs, frame=fold.kept), models)
            judged.extend(judge(place, evidence, full, rule) for place in fold.places)
        found.append(summary_of(kind, parts, judged))
    return found


def summary_of(kind: Kind, parts: int, judged: Sequence[Judged]) -> Summary:
    """The summary of all places of one kind of fold."""
    verdicts = [verdict for one in judged for verdict in one.verdicts]
    answers = [one for one in verdicts if one.answered]
    approximate = [one for one in answers if one.approximate]
    feasible = [one for one in verdicts if not math.isnan(one.best)]
    taken = _logarithms(feasible, (one.taken for one in feasible))
    exact = _logarithms(feasible, (one.exact for one in feasible))
    method, single = _single_best(feasible)
    return Summary(
        kind=kind,
        parts=parts,
        questions=len(verdicts),
        unknown=sum(one.unknown for one in judged),
        answered=_share(one.answered for one in verdicts),
        approximations=len(approximate),
        approximations_violated=_share(one.violated for one in approximate),
        violated=_share(one.violated for one in answers),
        exceeded=_share(one.exceeded for one in answers),
        regret=_quantiles([one.regret for one in feasible]),
        regret_by_value=_quantiles([one.regret_by_value for one in feasible]),
        gap_to_exact=_closed(exact, taken),
        gap_to_single=_closed(single, taken),
        single=" ".join(filter(None, method)) if method else "",
        times=_intervals([interval for one in judged for interval in one.times]),
        errors=_intervals([interval for one in judged for interval in one.errors]),
        risks=list(_risks(verdicts)),
    )


def _logarithms(verdicts: Sequence[Verdict], times: Iterable[float]) -> float:
    """The sum of the logarithms of times over those of the best methods."""
    return sum(math.log(time / one.best) for time, one in zip(times, verdicts, strict=True))


def _single_best(verdicts: Sequence[Verdict]) -> tuple[Method | None, float]:
    """The method that takes the least time in all questions, and its sum of logarithms. Where it
    has no row, exact attention takes its place."""
    sums = {
        method: _logarithms(verdicts, (one.costs.get(method, one.exact) for one in verdicts))
        for method in sorted({method for one in verdicts for method in one.costs})
    }
    best = min(sums, key=lambda method: sums[method], default=None)
    return best, sums[best] if best else math.nan


def _closed(baseline: float, taken: float) -> float:
    return 1 - taken / baseline if baseline > 0 else math.nan


def _share(flags: Iterable[bool]) -> float:
    known = list(flags)
    return sum(known) / len(known) if known else math.nan


def _quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return (math.nan, math.nan, math.nan)
    median, high, most = np.quantile(known, (0.5, 0.95, 1.0), method="higher").tolist()
    return median, high, most


def _intervals(intervals: Sequence[Interval]) -> Intervals:
    width = float(np.median([one.width for one in intervals])) if intervals else math.nan
    return Intervals(len(intervals), _share(one.contains for one in intervals), width)


def _risks(verdicts: Sequence[Verdict]) -> Iterator[Risk]:
    ordered = sorted(
        (one for one in verdicts if one.answered), key=lambda one: one.margin, reverse=True
    )
    for coverage in COVERAGES:
        number = round(coverage * len(verdicts))
        if 0 < number <= len(ordered):
            kept = ordered[:number]
            yield Risk(
                coverage,
                _share(one.violated for one in kept),
                _share(one.exceeded for one in kept),
            )
