"""Times every variant and implementation, for `make track`; not part of `make test`."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest

from bench.instruments import roofline
from bench.workloads.attention.given_inputs import Settings
from bench.workloads.attention.timed_call import used_implementation
from tests.tracking.exact_time import ExactTime
from tests.tracking.machine import DEVICE
from tests.tracking.planned import group_of, planned
from tests.tracking.tracked_call import TrackedCall
from variants import UnsupportedError

PLANNED = planned(DEVICE.type)
MOST_SECONDS = 0.2  # sampling time of exact attention on a new shape, and of the machine's limits
EXACT = ExactTime()


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> Settings:
    """The sampling time, and the limits of this machine, which are measured once."""
    seconds = min(MOST_SECONDS, float(pytestconfig.option.benchmark_max_time))
    dtypes = sorted({case.dtype for case in PLANNED.values()})
    limits = roofline.measure(DEVICE, dtypes, seconds)
    return Settings({}, limits["matmul_tflops"], seconds, limits["read_gb_per_s"])


@pytest.mark.parametrize("name", PLANNED)
def test_time_of_a_call(
    benchmark: Any, name: str, settings: Settings, pytestconfig: pytest.Config
) -> None:
    case = PLANNED[name]
    attention = case.attention
    if reason := attention.cannot_run(DEVICE):
        pytest.skip(reason)
    given = EXACT.enter(case, settings)
    try:
        tracked = TrackedCall.of(case, given)
    except UnsupportedError as error:
        pytest.skip(str(error))
    automatic = replace(attention, implementation="auto")
    is_named = attention.implementation == tracked.implementation and case.direction != "decode"
    if is_named and used_implementation(automatic, case, given.inputs) == tracked.implementation:
        pytest.skip(f"auto selects {tracked.implementation}, so the case auto measures it")

    exact_ms = EXACT.ms(float(pytestconfig.option.benchmark_min_time))
    with tracked.settings():
        tracked.warm_up()
        benchmark.group = group_of(case)
        out = benchmark(tracked)
        seen = tracked.accuracy(out)
        if wrong := tracked.wrong(seen):
            pytest.fail(wrong, pytrace=False)
        numbers = tracked.counts()
    numbers |= {
        "approx_error_rel_l2": seen.approx_error_rel_l2,
        "impl_error_rel_l2": seen.impl_error_rel_l2,
        "exact_ms_median": exact_ms,
    }
    if benchmark.stats is not None:  # None with --benchmark-disable
        seconds = statistics.median(benchmark.stats.stats.data)
        numbers["roofline_fraction"] = tracked.share(seconds, settings)
        numbers["speedup_vs_exact"] = exact_ms and exact_ms / (1e3 * seconds)
    benchmark.extra_info.update(case=case.values, implementation_used=tracked.implementation)
    benchmark.extra_info.update({k: v for k, v in numbers.items() if v is not None})
