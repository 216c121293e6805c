"""The verdict on a case from ratios of times: an interval against a band and the noise floor."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import mpmath

FALSE_ALARMS = 0.05  # largest share of comparisons of equal code with any FASTER or SLOWER
CONFIDENCE = 0.95  # of the interval that must lie within the band for SAME
LOOKS = 3  # a case that is UNCLEAR is measured at most twice more


class TimeVerdict(StrEnum):
    """The answer for a case."""

    FASTER = "FASTER"
    SAME = "SAME"
    SLOWER = "SLOWER"
    UNCLEAR = "UNCLEAR"


@dataclass(frozen=True)
class RoundRatios:
    """The results of rounds. Each round has new processes, so rounds are independent.

    Attributes:
        ratios: the logarithm of the time of head divided by that of base, one for each round.
        controls: the same of a second process of base divided by the first.
    """

    ratios: tuple[float, ...] = ()
    controls: tuple[float, ...] = ()

    def joined(self, more: RoundRatios) -> RoundRatios:
        """These rounds and further ones."""
        return RoundRatios(self.ratios + more.ratios, self.controls + more.controls)


@dataclass(frozen=True)
class Judgement:
    """A verdict and its evidence; all ratios are times of head divided by times of base.

    Attributes:
        ratio: geometric mean over the rounds.
        low: lower end of the interval of the ratio, with 95 % confidence for this case alone.
        high: upper end.
        wide: both ends of the interval that decides SLOWER and FASTER, with the confidence that
            all cases and looks together need.
        noise: the noise floor: base against base has ratios up to 1 + noise (95 % confidence).
        rounds: number of rounds.
    """

    verdict: TimeVerdict
    ratio: float
    low: float
    high: float
    wide: tuple[float, float]
    noise: float
    rounds: int


def judge(found: RoundRatios, band: float, cases: int) -> Judgement:
    """The verdict on a case.

    SLOWER and FASTER need an interval that lies as a whole outside of the band and of the noise
    floor. Its confidence is that of all `cases` and looks together (Bonferroni), so that a
    comparison of equal code has any of these verdicts in at most `FALSE_ALARMS` of all runs. SAME
    needs a 95 % interval within the band.

    Args:
        found: at least two rounds.
        band: relative difference that does not matter, such as 0.03.
        cases: number of cases that are judged in this comparison.
    """
    middle, error = _mean(found.ratios)
    width = _quantile(1 - (1 - CONFIDENCE) / 2, len(found.ratios)) * error
    wide = _quantile(1 - FALSE_ALARMS / (2 * cases * LOOKS), len(found.ratios)) * error
    floor = _floor(found.controls)
    limit = max(math.log1p(band), floor)
    if middle - wide > limit:
        verdict = TimeVerdict.SLOWER
    elif middle + wide < -limit:
        verdict = TimeVerdict.FASTER
    elif abs(middle) + width < math.log1p(band):
        verdict = TimeVerdict.SAME
    else:
        verdict = TimeVerdict.UNCLEAR
    return Judgement(
        verdict,
        ratio=math.exp(middle),
        low=math.exp(middle - width),
        high=math.exp(middle + width),
        wide=(math.exp(middle - wide), math.exp(middle + wide)),
        noise=math.expm1(floor),
        rounds=len(found.ratios),
    )


def _floor(controls: Sequence[float]) -> float:
    """The largest size of a ratio in the 95 % interval of base against base."""
    middle, error = _mean(controls)
    return abs(middle) + _quantile(1 - (1 - CONFIDENCE) / 2, len(controls)) * error


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


@cache
def _quantile(share: float, rounds: int) -> float:
    """The quantile of Student's distribution with one degree of freedom less than rounds."""
    freedom = rounds - 1

    def beyond(t: float) -> float:
        """The share of the distribution above t."""
        tail = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)
        return float(tail) / 2

    low, high = 0.0, 1.0
    while beyond(high) > 1 - share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 1 - share else (low, middle)
    return high
