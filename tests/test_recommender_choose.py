"""The rule that chooses a candidate, against an independent search of all pairs."""

from __future__ import annotations

import math
import random

import pytest

from reports.recommender.candidate import Candidate
from reports.recommender.choose import Bounds, choose, violations


def candidate(
    name: str = "lsh",
    time: float = 1.0,
    error: float = 0.1,
    *,
    noise: float = 0.0,
    spread: float = 0.0,
    memory: float = 1e6,
    perplexity: float | None = None,
    is_exact: bool = False,
    excluded: str = "",
) -> Candidate:
    return Candidate(
        label=name,
        variant=name,
        hyperparameters="",
        implementation="auto",
        is_exact=is_exact,
        evidence="measured",
        time_ms=time,
        time_low=(1 - 2 * noise) * time,
        time_high=(1 + 2 * noise) * time,
        noise_low=(1 - noise) * time,
        noise_high=(1 + noise) * time,
        error=error,
        error_low=(1 - spread) * error,
        error_high=(1 + spread) * error,
        layer=None,
        layer_errors={},
        memory_bytes=memory,
        perplexity_ratio=None if perplexity is None else (perplexity, 1.0, perplexity),
        perplexity_seq_len=None if perplexity is None else 2048,
        excluded=excluded,
        exact_ms=2.0,
        sdpa_ms=3.0,
        gradient_error=math.nan,
        rows=(0,),
    )


FULL = candidate("full", 10, 1e-7, is_exact=True)


def chosen(*candidates: Candidate, max_error: float = 0.2, **limits: float) -> str | None:
    found = choose(candidates, max_error, **limits).chosen
    return found and found.name


class TestRule:
    def test_the_fastest_within_the_error_is_chosen(self) -> None:
        assert chosen(FULL, candidate("a", 5, 0.1), candidate("b", 3, 0.3)) == "a"

    def test_the_upper_end_of_the_error_is_held_against_the_budget(self) -> None:
        assert chosen(FULL, candidate("a", 5, 0.19, spread=0.04)) == "a"
        assert chosen(FULL, candidate("a", 5, 0.19, spread=0.06)) == "full"

    def test_a_budget_that_is_just_met_is_met(self) -> None:
        assert chosen(candidate("a", 5, 0.2)) == "a"

    def test_an_excluded_method_is_never_chosen(self) -> None:
        assert chosen(FULL, candidate("a", 5, 0.1, excluded="no better than random keys")) == "full"

    def test_exact_attention_is_chosen_from_ties(self) -> None:
        a = candidate("a", 9.7, 0.1, noise=0.02)
        full = candidate("full", 10, 1e-7, noise=0.02, is_exact=True)
        assert chosen(a, full) == "full"
        assert chosen(candidate("a", 9.0, 0.1, noise=0.02), full) == "a"

    def test_of_tied_exact_implementations_the_fastest_is_chosen(self) -> None:
        a = candidate("full", 10, 1e-7, noise=0.02, is_exact=True)
        b = candidate("sdpa", 9.8, 3e-7, noise=0.02, is_exact=True)
        assert chosen(a, b) == "sdpa"

    def test_of_tied_approximations_the_more_accurate_one_is_chosen(self) -> None:
        a, b = candidate("a", 5, 0.2, noise=0.1), candidate("b", 5.4, 0.1, noise=0.1)
        assert chosen(FULL, a, b) == "b"

    def test_of_equally_accurate_ties_the_faster_one_is_chosen(self) -> None:
        a, b = candidate("a", 5.4, 0.1, noise=0.1), candidate("b", 5, 0.1, noise=0.1)
        assert chosen(FULL, a, b) == "b"

    def test_ties_of_the_fastest_are_reported(self) -> None:
        a, b = candidate("a", 5, 0.2, noise=0.1), candidate("b", 5.4, 0.1, noise=0.1)
        found = choose([FULL, a, b], 0.2)
        assert found.tied == [a, b]
        assert found.eligible == [FULL, a, b]

    def test_memory_time_and_perplexity_are_limits(self) -> None:
        a = candidate("a", 5, 0.1, noise=0.1, memory=2e6, perplexity=1.3)
        full = candidate("full", 10, 1e-7, is_exact=True, perplexity=1.0)
        assert chosen(a, full, max_memory=2e6) == "a"
        assert chosen(a, full, max_memory=1.9e6) == "full"
        assert chosen(a, full, max_time=6.0) == "a"
        assert chosen(a, full, max_time=5.9) is None
        assert chosen(a, full, max_perplexity_ratio=1.3) == "a"
        assert chosen(a, full, max_perplexity_ratio=1.2) == "full"

    def test_a_missing_number_does_not_satisfy_a_limit(self) -> None:
        a = candidate("a", 5, 0.1, memory=math.nan)
        assert chosen(a) == "a"
        assert chosen(a, max_memory=1e12) is None
        assert chosen(a, max_perplexity_ratio=100) is None
        assert chosen(candidate("a", 5, math.nan)) is None
        assert violations(a, Bounds(0.2, 1e12, None, 100)) == [
            "memory not measured",
            "perplexity not measured",
        ]

    def test_each_violated_limit_is_named(self) -> None:
        a = candidate("a", 5, 0.3, excluded="another operator")
        assert violations(a, Bounds(0.2, 1024, 2.0)) == [
            "another operator",
            "error up to 0.300, above 0.2",
            "memory up to 977 KiB, above 1.00 KiB",
            "time up to 5.00 ms, above 2.00 ms",
        ]

    def test_without_candidates_nothing_is_chosen(self) -> None:
        assert choose([], 1.0).chosen is None


def plainly(
    candidates: list[Candidate], max_error: float, max_memory: float | None, max_time: float | None
) -> Candidate | None:
    """The choice by comparing all pairs, without a sort and without a key function."""
    left = []
    for one in candidates:
        if one.excluded != "" or not one.error_high <= max_error:
            continue
        if max_memory is not None and not one.memory_bytes <= max_memory:
            continue
        if max_time is not None and not one.time_high <= max_time:
            continue
        left.append(one)
    fastest = [one for one in left if all(one.time_ms <= other.time_ms for other in left)]
    tied = [one for one in left if fastest and one.noise_low <= fastest[0].noise_high]
    accurate = [one for one in tied if one.is_exact]
    if not accurate:
        accurate = [one for one in tied if all(one.error_high <= it.error_high for it in tied)]
    best = [one for one in accurate if all(one.time_ms <= it.time_ms for it in accurate)]
    return best[0] if best else None


@pytest.mark.parametrize("seed", range(400))
def test_the_choice_is_that_of_a_search_of_all_pairs(seed: int) -> None:
    drawn = random.Random(seed)
    candidates = [
        candidate(
            f"method{number}",
            drawn.choice([1, 2, 3, 4]) * drawn.uniform(1, 1.3),
            drawn.choice([1e-7, 0.05, 0.1, 0.4]) * drawn.uniform(1, 1.5),
            noise=drawn.choice([0, 0.02, 0.2]),
            spread=drawn.uniform(0, 0.3),
            memory=drawn.choice([1e5, 1e6, math.nan]),
            is_exact=drawn.random() < 0.2,
            excluded="another operator" if drawn.random() < 0.2 else "",
        )
        for number in range(drawn.randint(0, 12))
    ]
    limits = (
        drawn.choice([1e-6, 0.06, 0.12, 0.5, 1]),
        drawn.choice([None, None, 5e5]),
        drawn.choice([None, None, 2.5, 4]),
    )
    assert choose(candidates, *limits).chosen == plainly(candidates, *limits)
