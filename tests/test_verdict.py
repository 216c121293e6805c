"""The verdict on a case: quantiles, intervals, the noise floor, and the rates of errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.time_gate import verdict
from bench.time_gate.verdict import FALSE_ALARMS, LOOKS, RoundRatios, TimeVerdict, judge

CASES = 20
ROUNDS = 10  # of a look
SPREAD = (-0.01, -0.005, 0.0, 0.005, 0.01)  # standard error: 0.00354
QUIET = RoundRatios(SPREAD, SPREAD)

Draw = Callable[[np.random.Generator], np.ndarray]


def around(middle: float, controls: tuple[float, ...] = SPREAD) -> RoundRatios:
    """RoundRatios with a mean logarithm of the ratio."""
    return RoundRatios(tuple(middle + one for one in SPREAD), controls)


# Tables of Student's distribution, for example NIST/SEMATECH e-Handbook, section 1.3.6.7.2.
@pytest.mark.parametrize(
    ("share", "rounds", "expected"),
    [
        (0.975, 2, 12.706),
        (0.975, 4, 3.182),
        (0.95, 11, 1.812),
        (0.975, 10, 2.262),
        (0.995, 30, 2.756),
        (0.999, 6, 5.893),
        (0.9, 3, 1.886),
    ],
)
def test_quantiles_are_those_of_the_table(share: float, rounds: int, expected: float) -> None:
    assert verdict._quantile(share, rounds) == pytest.approx(expected, abs=6e-4)


def test_the_interval_is_that_of_students_distribution() -> None:
    judged = judge(around(0.02), 0.03, 1)
    half = 2.776 * 0.0035355
    assert judged.ratio == pytest.approx(math.exp(0.02))
    assert judged.low == pytest.approx(math.exp(0.02 - half), rel=1e-5)
    assert judged.high == pytest.approx(math.exp(0.02 + half), rel=1e-5)
    assert judged.noise == pytest.approx(math.expm1(half), rel=1e-3)
    assert judged.rounds == 5


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (0.1, TimeVerdict.SLOWER),
        (-0.1, TimeVerdict.FASTER),
        (0.0, TimeVerdict.SAME),
        (0.015, TimeVerdict.SAME),
        (-0.015, TimeVerdict.SAME),
        (0.025, TimeVerdict.UNCLEAR),  # the 95 % interval contains the limit of the band
        (-0.025, TimeVerdict.UNCLEAR),
        (0.042, TimeVerdict.UNCLEAR),  # beyond the band at 95 %, but not with the family of looks
        (-0.042, TimeVerdict.UNCLEAR),
    ],
)
def test_the_verdict_follows_from_the_interval(middle: float, expected: TimeVerdict) -> None:
    assert judge(around(middle), 0.03, 1).verdict == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_a_noise_floor_beyond_the_ratio_blocks_the_verdict(sign: int) -> None:
    noisy = tuple(20 * one for one in SPREAD)
    assert judge(around(sign * 0.1), 0.03, 1).verdict in (TimeVerdict.SLOWER, TimeVerdict.FASTER)
    assert judge(around(sign * 0.1, noisy), 0.03, 1).verdict == TimeVerdict.UNCLEAR


def test_a_bias_between_equal_processes_blocks_the_verdict() -> None:
    biased = tuple(-0.1 + one for one in SPREAD)
    assert judge(around(0.1, biased), 0.03, 1).verdict == TimeVerdict.UNCLEAR


def test_more_cases_need_more_evidence() -> None:
    assert judge(around(0.07), 0.03, 1).verdict == TimeVerdict.SLOWER
    one, many = judge(around(0.07), 0.03, 1), judge(around(0.07), 0.03, 200)
    assert many.verdict == TimeVerdict.UNCLEAR
    assert (one.low, one.high) == (many.low, many.high)  # the shown interval is of one case


def gaussian(generator: np.random.Generator) -> np.ndarray:
    return generator.normal(0, 0.015, ROUNDS)


def heavy_tailed(generator: np.random.Generator) -> np.ndarray:
    return 0.015 / math.sqrt(3) * generator.standard_t(3, ROUNDS)


def final_verdict(
    generator: np.random.Generator, draw: Draw, change: float, band: float, noise: float
) -> TimeVerdict:
    """The verdict after at most `LOOKS` looks, as in `gate.compare`."""
    found = RoundRatios()
    for look in range(LOOKS):
        ratios, controls = (
            np.concatenate([draw(generator) for _ in range(2**look)]) for _ in range(2)
        )
        ratios, controls = change + ratios, noise * controls
        found = found.joined(RoundRatios(tuple(ratios.tolist()), tuple(controls.tolist())))
        judged = judge(found, band, CASES)
        if judged.verdict != TimeVerdict.UNCLEAR:
            break
    return judged.verdict


@pytest.mark.parametrize("draw", [gaussian, heavy_tailed])
def test_equal_code_gets_few_false_alarms(draw: Draw) -> None:
    """Without band and noise floor, only the width of the interval limits the false alarms."""
    generator = np.random.default_rng(0)
    comparisons, alarms = 300, 0
    for _ in range(comparisons):
        alarms += any(
            final_verdict(generator, draw, 0.0, 1e-9, 0.0) != TimeVerdict.UNCLEAR
            for _ in range(CASES)
        )
    assert FALSE_ALARMS == 0.05
    assert alarms <= 28  # with a rate of 5 %, 300 comparisons have more with a probability of 0.1 %


@pytest.mark.parametrize("draw", [gaussian, heavy_tailed])
def test_a_step_of_ten_percent_is_found(draw: Draw) -> None:
    generator = np.random.default_rng(1)
    found = [final_verdict(generator, draw, math.log(1.1), 0.03, 1.0) for _ in range(300)]
    assert found.count(TimeVerdict.SLOWER) / len(found) > 0.98


@pytest.mark.parametrize("draw", [gaussian, heavy_tailed])
def test_equal_code_is_mostly_same(draw: Draw) -> None:
    generator = np.random.default_rng(2)
    found = [final_verdict(generator, draw, 0.0, 0.03, 1.0) for _ in range(300)]
    assert found.count(TimeVerdict.SAME) / len(found) > 0.98
