"""The rule that chooses one candidate. The page states the same rule in JavaScript."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from reports.metrics import show_bytes, show_error, show_ms, show_ratio
from reports.recommender.candidate import Candidate


@dataclass(frozen=True)
class Bounds:
    """The upper bounds of a question: error, memory in bytes, time in ms, perplexity ratio."""

    max_error: float
    max_memory: float | None = None
    max_time: float | None = None
    max_perplexity_ratio: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """The chosen candidate, or None if no candidate is eligible.

    `eligible` are all candidates within the limits; `tied` are those of them that are as fast as
    the fastest one, up to the noise of the times.
    """

    chosen: Candidate | None
    eligible: Sequence[Candidate]
    tied: Sequence[Candidate]


def choose(
    candidates: Iterable[Candidate],
    max_error: float,
    max_memory: float | None = None,
    max_time: float | None = None,
    max_perplexity_ratio: float | None = None,
) -> Recommendation:
    """The candidate to use.

    A candidate is eligible if it is not excluded, and the upper ends of its intervals are within
    the limits. The eligible candidates whose noise overlaps that of the fastest one are tied
    with it. Of these, the fastest exact attention comes first, then the smallest upper end of the
    error, then the smallest time.
    """
    return choose_within(candidates, Bounds(max_error, max_memory, max_time, max_perplexity_ratio))


def choose_within(candidates: Iterable[Candidate], limits: Bounds) -> Recommendation:
    """`choose`, with the limits in one record."""
    eligible = [one for one in candidates if not violations(one, limits)]
    if not eligible:
        return Recommendation(None, (), ())
    fastest = min(eligible, key=lambda one: one.time_ms)
    tied = [one for one in eligible if one is fastest or one.noise_low <= fastest.noise_high]
    exact = [one for one in tied if one.is_exact]
    chosen = min(exact or tied, key=lambda one: (0 if exact else one.error_high, one.time_ms))
    return Recommendation(chosen, eligible, tied)


def violations(candidate: Candidate, limits: Bounds) -> list[str]:
    """The reasons why a candidate is not eligible; empty if it is. A missing number is a reason."""
    ratio = candidate.perplexity_ratio
    held = (
        ("error", candidate.error_high, limits.max_error, show_error),
        ("memory", candidate.memory_bytes, limits.max_memory, show_bytes),
        ("time", candidate.time_high, limits.max_time, show_ms),
        ("perplexity", ratio[2] if ratio else inf, limits.max_perplexity_ratio, show_ratio),
    )
    found = [candidate.excluded] if candidate.excluded else []
    for name, value, limit, show in held:
        if limit is None or value <= limit:
            continue
        if value < inf:
            bound = f"{limit:g}" if name == "error" else show(limit)
            found.append(f"{name} up to {show(value)}, above {bound}")
        else:
            found.append(f"{name} not measured")
    return found
