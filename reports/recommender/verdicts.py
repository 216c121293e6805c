"""Compares one answer with the rows that were left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reports.recommender.candidate import Candidate
from reports.recommender.choose import Bounds, Recommendation
from reports.recommender.evidence import Evidence
from reports.recommender.folds import LeftOut
from reports.recommender.observations import Method

BUDGETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # the error budgets of all questions
# The error budget of two more questions, and their limits as multiples of exact attention.
WITH_OTHER_LIMITS, MEMORY, TIME = 0.3, 2.0, 0.5

Rule = Callable[[Iterable[Candidate], Bounds], Recommendation]
Truth = Mapping[Method, Candidate]


@dataclass(frozen=True)
class Verdict:
    """The truth about the answer to one question. Times are in ms.

    Attributes:
        answered: whether a method was chosen from measured or interpolated numbers. Otherwise exact
            attention is used.
        approximate: whether the answer is no exact attention, and so can exceed an error budget.
        violated: whether a limit is exceeded for sure, by the lower end of the measured interval.
        exceeded: whether a limit is exceeded by the measured value.
        margin: logarithm of the error budget over the upper end of the predicted error; infinite
            for exact attention. Large margins are confident answers.
        best: time of the fastest method whose measured intervals keep the limits; NaN if no method
            does.
        best_value: time of the fastest method whose measured values keep the limits, or NaN.
        taken: time of the answer. If an approximation violates a limit, its result cannot be used,
            so it costs the time of exact attention, too.
        is_tied: whether the answer is as fast as the best method up to the noise of the times.
        exact: time of exact attention.
        costs: what each method would have taken as the answer, with the same cost of a violation.
    """

    limits: Bounds
    answered: bool
    approximate: bool
    violated: bool
    exceeded: bool
    margin: float
    best: float
    best_value: float
    taken: float
    is_tied: bool
    exact: float
    costs: Mapping[Method, float]

    @property
    def regret(self) -> float:
        """The time of the answer over that of the best method, minus 1; 0 for a tie, NaN if no
        method keeps the limits."""
        return 0.0 if self.is_tied else max(self.taken / self.best - 1, 0.0)

    @property
    def regret_by_value(self) -> float:
        """The same against the best method by measured values."""
        return 0.0 if self.is_tied else max(self.taken / self.best_value - 1, 0.0)


@dataclass(frozen=True)
class Interval:
    """A predicted interval and the measured value."""

    low: float
    high: float
    measured: float

    @property
    def contains(self) -> bool:
        return self.low <= self.measured <= self.high

    @property
    def width(self) -> float:
        """The upper end over the lower end."""
        return self.high / self.low if self.low > 0 else math.inf


@dataclass(frozen=True)
class Judged:
    """All that one place shows: verdicts, predicted intervals, and questions without a verdict."""

    verdicts: Sequence[Verdict]
    times: Sequence[Interval]
    errors: Sequence[Interval]
    unknown: int


def judge(place: LeftOut, evidence: Evidence, full: Evidence, rule: Rule) -> Judged:
    """Ask all questions of a place.

    Args:
        evidence: that of the rows that are left.
        full: that of all rows.
        rule: chooses a candidate.
    """
    predicted = evidence.candidates(place.scene, place.seq_len, place.layer)
    everything = full.candidates(place.scene, place.seq_len, place.layer)
    truth = {method_of(one): one for one in everything if one.evidence == "measured"}
    exact = _exact(truth)
    verdicts, unknown = [], 0
    for limits in _limits(exact):
        chosen = rule(predicted, limits).chosen
        verdict = _verdict(chosen, limits, truth, exact) if exact else None
        if verdict is None:
            unknown += 1
        else:
            verdicts.append(verdict)
    pairs = [(one, truth[key]) for one in predicted if (key := method_of(one)) in truth]
    times = [Interval(one.time_low, one.time_high, own.time_ms) for one, own in pairs]
    errors = [
        Interval(one.error_low, one.error_high, own.error)
        for one, own in pairs
        # The error of an extrapolated method is that of the nearest place, and not a prediction.
        if not own.is_exact and one.evidence != "extrapolated" and not math.isnan(own.error)
    ]
    return Judged(verdicts, times, errors, unknown)


def method_of(candidate: Candidate) -> Method:
    return Method(candidate.variant, candidate.hyperparameters, candidate.implementation)


def _limits(exact: Candidate | None) -> Iterator[Bounds]:
    for budget in BUDGETS:
        yield Bounds(budget)
    if exact:
        yield Bounds(WITH_OTHER_LIMITS, max_memory=MEMORY * exact.memory_bytes)
        yield Bounds(WITH_OTHER_LIMITS, max_time=TIME * exact.time_ms)


def _exact(truth: Truth) -> Candidate | None:
    """Exact attention as users call it: the implementation `auto`, else the fastest one."""
    known = [one for one in truth.values() if one.is_exact]
    return min(known, key=lambda one: (one.implementation != "auto", one.time_ms), default=None)


def _verdict(
    chosen: Candidate | None, limits: Bounds, truth: Truth, exact: Candidate
) -> Verdict | None:
    """None if the chosen method has no finished row here."""
    usable = [one for one in truth.values() if not one.excluded]
    feasible = [one for one in usable if not _beyond(one, limits, "high")]
    by_value = [one for one in usable if not _beyond(one, limits, "value")]
    answered = chosen is not None and chosen.evidence != "extrapolated"
    used = truth.get(method_of(chosen)) if chosen else exact
    if used is None:
        return None
    best = min(feasible, key=lambda one: one.time_ms, default=None)
    violated = answered and _beyond(used, limits, "low")
    return Verdict(
        limits=limits,
        answered=answered,
        approximate=answered and not used.is_exact,
        violated=violated,
        exceeded=answered and _beyond(used, limits, "value"),
        margin=_margin(chosen, limits),
        best=best.time_ms if best else math.nan,
        best_value=min((one.time_ms for one in by_value), default=math.nan),
        taken=_cost(used, limits, exact) if answered else used.time_ms,
        is_tied=best is not None and not violated and used.time_low <= best.time_high,
        exact=exact.time_ms,
        costs={method_of(one): _cost(one, limits, exact) for one in usable},
    )


def _cost(one: Candidate, limits: Bounds, exact: Candidate) -> float:
    """The time of a method, and that of exact attention if its result cannot be used."""
    wasted = not one.is_exact and _beyond(one, limits, "low")
    return one.time_ms + (exact.time_ms if wasted else 0.0)


def _beyond(one: Candidate, limits: Bounds, end: str) -> bool:
    """Whether a limit is exceeded, by an end of the measured intervals or by the values."""
    error = {"low": one.error_low, "value": one.error, "high": one.error_high}[end]
    time = {"low": one.time_low, "value": one.time_ms, "high": one.time_high}[end]
    held = (
        (error, limits.max_error),
        (one.memory_bytes, limits.max_memory),
        (time, limits.max_time),
    )
    return any(limit is not None and not number <= limit for number, limit in held)


def _margin(chosen: Candidate | None, limits: Bounds) -> float:
    if chosen is None or chosen.is_exact or chosen.error_high <= 0:
        return math.inf
    return math.log(limits.max_error / chosen.error_high)
