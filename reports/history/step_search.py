"""Finds the steps of a series: places after which a number stays on another level.

A count has no noise, so each difference is a step. Times are noisy. Their steps are found on the
logarithms by asv's search for the piecewise constant function with the least sum of absolute
deviations plus a penalty for each step. Medians are the levels of such a function, so a single slow
run moves none. The penalty is a multiple of the noise of the series itself. The noise is measured
from the differences of neighbours, so it does not contain the steps. The multiple was chosen by
simulation; `tests/test_step_search.py` measures the rate of false steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from bench.schema.validation import UserError

LIBRARY = "asv"
MOST_FALSE = 0.01  # of all series of a noisy metric, those in which a step is claimed by chance
FEWEST = 8  # points of a series in which steps are searched for
SHORTEST = 3  # points between two steps, and before the first one and after the last one
LAGS = (1, 2, 3)  # distances of the points whose differences give the noise
NORMAL = 0.6745 * math.sqrt(2)  # the median of |difference| of two normal numbers of deviation 1
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


def exact_steps(values: Sequence[float], tolerance: float) -> list[Step]:
    """The steps of numbers without noise: those that differ by more than a relative tolerance from
    the first number of their level."""
    steps = []
    level = values[0]
    for at, value in enumerate(values):
        if abs(value - level) > tolerance * min(abs(value), abs(level)):
            steps.append(Step(at, level, value))
            level = value
    return steps


def noise_of(logs: NDArray[np.float64]) -> float:
    """The noise of logarithms as a standard deviation, which steps and outliers hardly change.

    The greatest of several lags is used: a slow drift of the machine is seen at greater distances,
    and the noise of a short series is underestimated less often.
    """
    found = [float(np.median(np.abs(logs[lag:] - logs[:-lag]))) / NORMAL for lag in LAGS]
    return max(*found, LEAST_NOISE)


def penalty(points: int) -> float:
    """The penalty of a step, in standard deviations of the noise.

    A longer series has more places for a false step, and the noise of a short one is less certain.
    """
    return 3.6 + 1.1 * math.log(points) + 60 / points


def noisy_steps(values: Sequence[float]) -> list[Step]:
    """The steps of positive numbers with noise; none if there are fewer than `FEWEST`."""
    if len(values) < FEWEST:
        return []
    from asv.step_detect import solve_potts

    logs = np.log(np.asarray(values, dtype=np.float64))
    limit = penalty(len(logs)) * noise_of(logs)
    right, levels, *_ = solve_potts(list(logs), [1.0] * len(logs), limit, min_size=SHORTEST)
    pairs = zip(right[:-1], levels[:-1], levels[1:], strict=True)
    return [Step(at, math.exp(before), math.exp(after)) for at, before, after in pairs]
