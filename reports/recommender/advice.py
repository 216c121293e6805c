"""The answer to a question: what to use, why not something else, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reports.recommender.candidate import Candidate
from reports.recommender.caveats import caveats
from reports.recommender.choose import Recommendation, choose_within, violations
from reports.recommender.evidence import Evidence
from reports.recommender.question import Question

# chosen: there is evidence, and a method within the limits. none: no method is within the limits.
# unsure: the evidence is too thin, and exact attention is the fall-back.
Status = Literal["chosen", "none", "unsure"]
EXTRAPOLATED = "extrapolated"
MOST_FASTER = 3  # named methods that are faster than the choice, and not within the limits
MOST_SLOWER = 2  # named methods that are within the limits, and slower


@dataclass(frozen=True)
class Alternative:
    """A method that was not chosen, and the reasons."""

    candidate: Candidate
    reasons: Sequence[str]


@dataclass(frozen=True)
class Rung:
    """The method that is chosen if errors up to `max_error` are allowed."""

    max_error: float
    candidate: Candidate


@dataclass(frozen=True)
class Advice:
    """An answer.

    `chosen` is the method to use: exact attention if unsure, None if nothing is within the limits.
    `exact` is the best exact implementation, also outside the limits; `tied` are methods that are
    as fast as the chosen one. Alternatives and ladder are at the length `compared_at`. It differs
    from that of the question if nothing was measured near it, and is None without any evidence.
    `nearby` is the method of the answer at this other length, and `chosen_nearby` the method that
    is chosen there.
    """

    question: Question
    status: Status
    chosen: Candidate | None
    exact: Candidate | None
    tied: Sequence[Candidate]
    compared_at: int | None
    nearby: Candidate | None
    chosen_nearby: Candidate | None
    alternatives: Sequence[Alternative]
    ladder: Sequence[Rung]
    caveats: Sequence[str]


def advise(evidence: Evidence, question: Question) -> Advice:
    """Answer a question."""
    scene, seq_len, layer = question.scene, question.seq_len, question.layer
    candidates = evidence.candidates(scene, seq_len, layer)
    found = choose_within(candidates, question.limits)
    exact = _exact(candidates, question)
    compared_at, compared = seq_len, candidates
    known = any(one.evidence != EXTRAPOLATED for one in candidates)
    if not known and (lengths := evidence.lengths(scene)):
        compared_at = min(lengths, key=lambda length: abs(math.log(length / seq_len)))
        compared = evidence.candidates(scene, compared_at, layer)
        chosen = _fastest_nearby(found.eligible, compared)
        found = Recommendation(chosen, found.eligible, [chosen] if chosen else [])
        exact = _fastest_nearby((one for one in candidates if one.is_exact), compared)
    answer = found.chosen or exact
    best = choose_within(compared, question.limits)
    reference = best.chosen or _exact(compared, question)
    nearby = [one for one in compared if answer and one.name == answer.name]
    return Advice(
        question=question,
        status=_status(found.chosen, known=known),
        chosen=found.chosen,
        exact=exact,
        tied=[one for one in found.tied if one is not found.chosen],
        compared_at=compared_at if compared else None,
        nearby=nearby[0] if nearby and compared_at != seq_len else None,
        chosen_nearby=best.chosen if compared_at != seq_len else None,
        alternatives=_alternatives(compared, best.tied, reference, question),
        ladder=_ladder(compared, reference, question),
        caveats=caveats(evidence, question, answer, candidates),
    )


def _fastest_nearby(
    candidates: Iterable[Candidate], compared: Sequence[Candidate]
) -> Candidate | None:
    """The candidate that is fastest among `compared`, at the nearest measured length: extrapolated
    times of the implementations of exact attention differ by less than their uncertainty."""
    near = {one.name: one.time_ms for one in compared}
    return min(
        candidates, key=lambda one: (near.get(one.name, math.inf), one.time_ms), default=None
    )


def _status(chosen: Candidate | None, *, known: bool) -> Status:
    if chosen is None:
        return "none" if known else "unsure"
    return "unsure" if chosen.evidence == EXTRAPOLATED else "chosen"


def _exact(candidates: Sequence[Candidate], question: Question) -> Candidate | None:
    """The best exact implementation within the limits; the fastest one if none is."""
    exact = [one for one in candidates if one.is_exact]
    found = choose_within(exact, question.limits).chosen
    return found or min(exact, key=lambda one: one.time_ms, default=None)


def _alternatives(
    candidates: Sequence[Candidate],
    tied: Sequence[Candidate],
    best: Candidate | None,
    question: Question,
) -> list[Alternative]:
    """The nearest misses: methods that are faster and violate a limit, the smallest error first,
    and approximations within the limits that are slower, the fastest first.

    If no faster method only violates a limit, those that are never chosen say why.
    """
    least = best.noise_low if best else math.inf
    faster: list[Alternative] = []
    never: list[Alternative] = []
    slower: list[Alternative] = []
    for one in candidates:
        reasons = violations(one, question.limits)
        if one is best or one in tied or (one.is_exact and not reasons):
            continue
        if not reasons:
            slower.append(Alternative(one, ["slower"]))
        elif one.noise_high < least:
            (never if one.excluded else faster).append(Alternative(one, reasons))
    for found in (faster, never):
        found.sort(key=lambda it: (it.candidate.error_high, it.candidate.time_ms))
    slower.sort(key=lambda it: it.candidate.time_ms)
    return [*(faster or never)[:MOST_FASTER], *slower[:MOST_SLOWER]]


def _ladder(
    candidates: Sequence[Candidate], best: Candidate | None, question: Question
) -> list[Rung]:
    """The larger error budgets at which a faster method is chosen."""
    limits = question.limits
    budgets = sorted(
        {
            _rounded_up(one.error_high)
            for one in candidates
            if not one.excluded and limits.max_error < one.error_high < math.inf
        }
    )
    rungs: list[Rung] = []
    time = best.noise_low if best else math.inf
    for budget in budgets:
        wider = replace(question, limits=replace(limits, max_error=budget))
        found = choose_within(candidates, wider.limits).chosen
        if found and found.noise_high < time:
            rungs.append(Rung(budget, found))
            time = found.noise_low
    return rungs


def _rounded_up(error: float) -> float:
    """The next number with one significant digit: 0.284 -> 0.3."""
    unit = 10.0 ** math.floor(math.log10(error))
    return float(f"{math.ceil(error / unit - 1e-9) * unit:.1g}")
