"""The search for steps: the rate of false ones, and the share of true ones that are found.

All rates are of series that a fixed seed draws, so a test has the same result each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from reports.history.step_search import (
    FEWEST,
    MOST_FALSE,
    SHORTEST,
    exact_steps,
    noise_of,
    noisy_steps,
)
from reports.history.tracked_metrics import TrackedNumber, counts_agree, method_errors_agree

Logs = NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Logs]
SPREAD = 0.02


def gaussian(generator: np.random.Generator, points: int) -> Logs:
    return generator.normal(0, SPREAD, points)


def heavy(generator: np.random.Generator, points: int) -> Logs:
    """Student's t with 3 degrees of freedom; one run in 20 is 10 % to 65 % slower."""
    found = generator.standard_t(3, points) * SPREAD / math.sqrt(3) * 1.2
    slow = generator.random(points) < 0.05
    return found + slow * generator.uniform(0.1, 0.5, points)


def correlated(generator: np.random.Generator, points: int) -> Logs:
    """Noise that has a correlation of 0.5 with that of the run before it."""
    found = generator.normal(0, SPREAD * math.sqrt(0.75), points)
    found[0] /= math.sqrt(0.75)
    for at in range(1, points):
        found[at] += 0.5 * found[at - 1]
    return found


def counted(noise: Noise, points: int, series: int, step: float = 1.0, after: int = 0) -> int:
    """The number of series with a step: of those without one, or at the right place."""
    generator = np.random.default_rng(points)
    found = 0
    for _ in range(series):
        logs = noise(generator, points)
        logs[points - after :] += math.log(step) * bool(after)
        steps = noisy_steps(np.exp(logs).tolist())
        place = points - after
        found += any(abs(it.at - place) <= 1 for it in steps) if after else bool(steps)
    return found


class TestFalseSteps:
    """Each bound is four standard errors above the promised rate of `MOST_FALSE`."""

    @pytest.mark.parametrize("noise", [gaussian, heavy])
    def test_few_series_without_a_step_have_one_at_any_length(self, noise: Noise) -> None:
        lengths = [6, 7, 8, 10, 12, 15, 20, 30, 50, 100]
        series = {points: 400 if points < 50 else 150 for points in lengths}
        false = sum(counted(noise, points, number) for points, number in series.items())
        drawn = sum(number for points, number in series.items() if points >= FEWEST)
        assert false <= drawn * MOST_FALSE + 4 * math.sqrt(drawn * MOST_FALSE)

    def test_correlated_noise_makes_more_false_steps_than_independent_noise_but_not_many(
        self,
    ) -> None:
        """A limit of the search: 8 % of 2000 series had one, and 20 % without `persistence`."""
        assert 8 <= counted(correlated, 50, 400) <= 33 + 4 * math.sqrt(33)

    def test_too_few_points_never_have_a_step(self) -> None:
        assert noisy_steps([1.0] * (FEWEST // 2) + [100.0] * (FEWEST - 1 - FEWEST // 2)) == []

    def test_a_single_slow_run_is_no_step(self) -> None:
        logs = gaussian(np.random.default_rng(0), 20)
        for place in range(20):
            slow = logs.copy()
            slow[place] += math.log(3)
            assert noisy_steps(np.exp(slow).tolist()) == []

    def test_three_slow_runs_of_four_are_no_step(self) -> None:
        logs = gaussian(np.random.default_rng(0), 20)
        for place in range(4, 13):
            slow = logs.copy()
            slow[[place, place + 1, place + 3]] += math.log(2)
            assert noisy_steps(np.exp(slow).tolist()) == []

    def test_equal_times_have_no_step(self) -> None:
        assert noisy_steps([3.0] * 20) == []


class TestFoundSteps:
    """The share of steps that are found at 2 % of noise, within one commit of their place.

    Each bound is four standard errors below the share that 400 series had.
    """

    @pytest.mark.parametrize(
        ("step", "points", "after", "least"),
        [
            (1.05, 30, 15, 0.61),
            (1.1, 10, 5, 0.79),
            (1.1, 30, SHORTEST, 0.73),
            (1.3, FEWEST, SHORTEST, 0.98),
            (1.3, 30, SHORTEST, 0.98),
            (1 / 1.3, 30, 15, 0.98),
        ],
    )
    def test_a_step_is_found(self, step: float, points: int, after: int, least: float) -> None:
        assert counted(gaussian, points, 100, step, after) >= 100 * least

    def test_a_step_of_5_percent_needs_more_than_four_commits(self) -> None:
        """The limit of the search: documented, not wanted."""
        assert counted(gaussian, 30, 100, 1.05, SHORTEST) < 60

    def test_slow_runs_do_not_hide_a_step(self) -> None:
        assert counted(heavy, 30, 100, 1.3, 10) >= 95

    def test_both_ends_of_a_slow_period_are_found_with_their_levels(self) -> None:
        logs = gaussian(np.random.default_rng(3), 40)
        logs[12:25] += math.log(1.2)
        first, second = noisy_steps(np.exp(logs).tolist())
        assert (first.at, second.at) == (12, 25)
        assert first.ratio == pytest.approx(1.2, rel=0.02)
        assert second.ratio == pytest.approx(1 / 1.2, rel=0.02)


class TestNoise:
    @pytest.mark.parametrize("noise", [gaussian, heavy])
    def test_the_noise_is_about_that_of_the_series(self, noise: Noise) -> None:
        found = noise_of(noise(np.random.default_rng(5), 200))
        assert SPREAD * 0.6 < found < SPREAD * 1.4

    def test_a_step_hardly_changes_the_noise(self) -> None:
        logs = gaussian(np.random.default_rng(6), 60)
        before = noise_of(logs)
        logs[30:] += math.log(2)
        assert noise_of(logs) < 1.2 * before


def numbers(*values: float) -> list[TrackedNumber]:
    return [TrackedNumber(value, value, value) for value in values]


class TestExactSteps:
    def test_each_difference_is_a_step(self) -> None:
        steps = exact_steps(numbers(5.0, 5.0, 6.0, 6.0, 5.0), counts_agree)
        assert [(step.at, step.before, step.after) for step in steps] == [(2, 5, 6), (4, 6, 5)]

    def test_a_number_within_the_tolerance_of_its_level_is_none(self) -> None:
        assert exact_steps(numbers(1.0, 1.0009, 0.9995, 1.0), method_errors_agree) == []
        steps = exact_steps(numbers(1.0, 1.0006, 1.0012), method_errors_agree)
        assert [step.at for step in steps] == [2]

    def test_a_level_of_zero_has_an_infinite_ratio(self) -> None:
        (step,) = exact_steps(numbers(0.0, 0.0, 2.0), method_errors_agree)
        assert step.ratio == math.inf
