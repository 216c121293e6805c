"""The exit status of `make track-compare`, from the outcomes of its cases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.cli.gate_command import FINE, NOT_MEASURED, REGRESSION
from tests.tracking.outcomes import MOST_NAMED, Outcomes


def config(*, fail: bool = True, disabled: bool = False) -> Any:
    option = SimpleNamespace(benchmark_compare=True, benchmark_compare_fail=fail, collectonly=False)
    return SimpleNamespace(option=option, _benchmarksession=SimpleNamespace(disabled=disabled))


def outcomes(selected: str, passed: str, stored: str, **seen: bool) -> Outcomes:
    """Each letter is a case."""
    return Outcomes(
        passed=set(passed),
        selected={case: f"name {case}" for case in selected},
        comparable=set(stored) & set(selected),
        **seen,
    )


@pytest.mark.parametrize(
    ("selected", "passed", "stored", "status", "without_limit"),
    [
        ("abc", "abc", "abc", FINE, FINE),
        ("abc", "ab", "ab", FINE, FINE),  # `c` could not be measured before and cannot be now
        ("ab", "ab", "abc", FINE, FINE),  # `c` is not selected
        ("abc", "abc", "a", NOT_MEASURED, FINE),  # the stored run has a part of the cases
        ("abc", "ab", "abc", NOT_MEASURED, FINE),  # `c` is skipped now
        ("ab", "abx", "ab", FINE, FINE),  # `x` is no benchmark
        ("abc", "ab", "c", NOT_MEASURED, NOT_MEASURED),
    ],
)
def test_a_limit_needs_a_stored_and_a_present_time_of_each_case(
    selected: str, passed: str, stored: str, status: int, without_limit: int
) -> None:
    seen = outcomes(selected, passed, stored)
    assert seen.status(config(), pytest.ExitCode.OK) == status
    assert seen.status(config(fail=False), pytest.ExitCode.OK) == without_limit
    assert seen.status(config(disabled=True), pytest.ExitCode.OK) == NOT_MEASURED


@pytest.mark.parametrize("seen", [{"regressed": True}, {"inaccurate": True}])
def test_a_regression_is_said_although_other_cases_are_not_compared(seen: dict[str, bool]) -> None:
    found = outcomes("abc", "ab", "bc", **seen)
    assert found.status(config(), pytest.ExitCode.OK) == REGRESSION
    assert found.status(config(), pytest.ExitCode.INTERRUPTED) == REGRESSION


def test_the_first_cases_that_are_not_compared_are_named() -> None:
    letters = "abcdefghijkl"
    new, missing, next_step = outcomes(letters, letters[:-1], "al").uncompared(config())
    assert new.startswith("not compared: 10 cases without a stored time: name b, name c, ")
    assert new.endswith(f"name i, and {10 - MOST_NAMED} more")
    assert missing == (
        "not compared: 1 case with a stored time, not measured now: name l (not run)"
    )
    assert "make track" in next_step
    assert list(outcomes("ab", "ab", "ab").uncompared(config())) == []
