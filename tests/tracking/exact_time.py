"""The time of exact attention, beside the times that are compared with it."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace

from bench.schema.case import Case
from bench.workloads.attention import current_shape, exact_baselines
from bench.workloads.attention.current_shape import MeasuredShape
from bench.workloads.attention.given_inputs import Given, Settings
from tests.tracking.tracked_call import TrackedCall
from variants.contract.registry import reference_attention

SECONDS = 0.1  # sampling time
LEAST_ROUNDS = 5
AGAIN = 15.0  # seconds after which exact attention is timed again


class ExactTime:
    """The time of exact attention on the shape of the present case.

    It is measured again after some seconds, so that a ratio compares times that are near each other
    when the load of the machine changes.
    """

    def __init__(self) -> None:
        self._shape: MeasuredShape | None = None
        self._call: TrackedCall | None = None
        self._ms: float | None = None
        self._measured = 0.0

    def enter(self, case: Case, settings: Settings) -> Given:
        """The inputs of a case. If its shape is a new one, all exact implementations are measured,
        and the fastest one is chosen."""
        shape = current_shape.enter(case, settings, exact=True)
        if shape is not self._shape:
            self._shape, self._call, self._ms = shape, None, None
            if fastest := exact_baselines.fastest(shape.exact):
                # A decoding step of `auto` is measured under the name `step`.
                name = "auto" if fastest.implementation == "step" else fastest.implementation
                attention = replace(reference_attention(), implementation=name)
                self._call = TrackedCall.of(replace(case, attention=attention), shape.given)
        return shape.given

    def ms(self, round_seconds: float) -> float | None:
        """The median time of a call in ms, over rounds of this length like those of
        pytest-benchmark; None if there is no exact implementation."""
        if self._call is None:
            return None
        now = time.perf_counter()
        if self._ms is None or now - self._measured >= AGAIN:
            with self._call.settings():
                self._ms = 1e3 * _median_seconds(self._call, round_seconds)
            self._measured = now
        return self._ms


def _median_seconds(call: TrackedCall, round_seconds: float) -> float:
    call.warm_up()
    started = time.perf_counter()
    call()
    calls = max(1, math.ceil(round_seconds / (time.perf_counter() - started)))
    rounds: list[float] = []
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() - started < SECONDS:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - began) / calls)
    return statistics.median(rounds)
