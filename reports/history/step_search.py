"""Finds the steps of a series: places after which a number stays on another level.

A count has no noise, so each difference is a step. Times are noisy. Their steps are found on the
logarithms by asv's search for the piecewise constant function with the least sum of absolute
deviations plus a penalty for each step. The penalty is a multiple of the noise of the series, which
is measured from the differences between near points, so that steps do not add to it. Outliers are
first moved towards the median of their neighbours, so that a few slow runs make no step.

The multiple was chosen by simulation of series without a step. `tests/test_step_search.py` measures
the rates of false steps and of steps that are found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from bench.schema.validation import UserError
from reports.history.tracked_metrics import Agreement, TrackedNumber

LIBRARY = "asv"
# Of all series of a noisy metric, those in which a step is claimed by chance: if the noise of the
# runs is independent, and the greatest rate that docs/analysing.md has for correlated noise.
MOST_FALSE, CORRELATED_FALSE = 0.01, 0.094
FEWEST = 8  # points of a series in which steps are searched for
SHORTEST = 4  # points between two steps, and before the first one and after the last one
NEIGHBOURS = 7  # points, the median of which an outlier is compared with
OUTLIER = 2.5  # standard deviations of the noise; greater distances from that median are cut
LAGS = (1, 2)  # distances of the points, the differences of which give the noise
NORMAL = 0.6745 * math.sqrt(2)  # the median of |difference| of two normal numbers of deviation 1
MOST_CORRELATED = 0.8
LEAST_NOISE = 1e-3  # relative; equal times would have none


@dataclass(frozen=True)
class Step:
    """A step. `at` is the number of the first point after it; `before` and `after` are levels."""

    at: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """The level after the step in parts of the level before it; infinite after zero."""
        return self.after / self.before if self.before else math.inf


def check_library() -> None:
    """UserError if the library that finds steps is not installed."""
    if find_spec(LIBRARY) is None:
        raise UserError(
            f"the package {LIBRARY}, which finds the steps of times, is not installed; "
            "`make history` and `pip install 'attention-benchmark[history]'` install it"
        )


def exact_steps(numbers: Sequence[TrackedNumber], agree: Agreement) -> list[Step]:
    """The steps of numbers without noise: those that do not agree with the first number of their
    level."""
    steps: list[Step] = []
    level = numbers[0] if numbers else None
    for at, number in enumerate(numbers):
        if level is not None and not agree(level, number):
            steps.append(Step(at, level.value, number.value))
            level = number
    return steps


def noise_of(logs: NDArray[np.float64]) -> float:
    """The noise of logarithms as a standard deviation, which steps and outliers hardly change.

    The greater value of two lags is used, as the noise of a short series is then underestimated
    less often.
    """
    return max(*(_difference(logs, lag) for lag in LAGS), LEAST_NOISE)


def persistence(logs: NDArray[np.float64]) -> float:
    """The factor by which sums of noise are greater than those of independent noise.

    If the noise of a run depends on that of the run before it with the correlation r, differences
    of lag 2 have 1 + r times the variance of those of lag 1, and sums have (1 + r) / (1 - r) times
    the variance of independent ones. Short series do not show r well, so it is reduced there.
    """
    near, far = (max(_difference(logs, lag), LEAST_NOISE) for lag in LAGS)
    correlation = min(max((far / near) ** 2 - 1, 0), MOST_CORRELATED) * (1 - FEWEST / len(logs))
    return math.sqrt((1 + correlation) / (1 - correlation))


def _difference(logs: NDArray[np.float64], lag: int) -> float:
    """The noise of points, from the median difference of points with this distance."""
    return float(np.median(np.abs(logs[lag:] - logs[:-lag]))) / NORMAL


def without_outliers(logs: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """The logarithms, cut to an interval around the median of their neighbours."""
    wide = min(NEIGHBOURS, len(logs))
    first = np.clip(np.arange(len(logs)) - wide // 2, 0, len(logs) - wide)
    middle = np.median(np.lib.stride_tricks.sliding_window_view(logs, wide)[first], axis=1)
    return np.clip(logs, middle - OUTLIER * noise, middle + OUTLIER * noise)


def penalty(points: int) -> float:
    """The penalty of a step in standard deviations of the noise: more for longer series, which have
    more places for a false step."""
    return 2.6 + 1.2 * math.log(points)


def noisy_steps(values: Sequence[float]) -> list[Step]:
    """The steps of positive numbers with noise; none if there are fewer than `FEWEST`."""
    if len(values) < FEWEST:
        return []
    from asv.step_detect import solve_potts

    logs = np.log(np.asarray(values, dtype=np.float64))
    noise = noise_of(logs)
    cut = without_outliers(logs, noise).tolist()
    limit = penalty(len(cut)) * noise * persistence(logs)
    right, *_ = solve_potts(cut, [1.0] * len(cut), limit, min_size=SHORTEST)
    levels = [math.exp(np.median(part)) for part in np.split(logs, right[:-1])]
    pairs = zip(right[:-1], levels[:-1], levels[1:], strict=True)
    return [Step(at, before, after) for at, before, after in pairs]
