"""The noise of a run: its selfchecks, and its rows that other load disturbed, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from reports.rows import SELFCHECK, Runs

TIMES = {"start": "At the start", "end": "At the end"}
COLUMN = "disturbed"


def of_machines(runs: Runs) -> dict[str, list[str]]:
    """Sentences on the noise of each machine; older runs have none."""
    return {
        machine: [
            *_checks(environment),
            *_beside(_object(environment.get(SELFCHECK))),
            *_rows(runs.frame[runs.frame["machine"] == machine]),
        ]
        for machine, environment in runs.environments.items()
    }


def resolution(environment: Mapping[str, Any]) -> float | None:
    """The largest difference of times that a selfcheck of the run found for the same code, in 95 %
    of comparisons; None if the run has no selfcheck."""
    checks = [
        _object(check)
        for found in _object(environment.get("selfchecks")).values()
        for check in _object(found).values()
    ]
    known = [check.get("resolution") for check in checks]
    return max((value for value in known if isinstance(value, int | float)), default=None)


def _checks(environment: Mapping[str, Any]) -> Iterator[str]:
    hosts = _object(environment.get("selfchecks"))
    for host, found in hosts.items():
        where = f"{host}: " if len(hosts) > 1 else ""
        checks = {when: _object(_object(found).get(when)) for when in TIMES}
        for when, check in checks.items():
            if check:
                yield where + _sentence(TIMES[when], check)
        if slower := _change(checks["start"], checks["end"]):
            yield where + slower


def _beside(check: Mapping[str, Any]) -> Iterator[str]:
    """The result of `python -m bench selfcheck` with the folder of the run as --out."""
    if check:
        yield _sentence("In a selfcheck beside the run", check)
        value = check.get("resolution_between_processes")
        if isinstance(value, int | float):
            yield f"Measurements in different processes differed by less than {value:.1%}."


def _sentence(when: str, check: Mapping[str, Any]) -> str:
    value = check.get("resolution")
    if isinstance(value, int | float):
        said = (
            f"{when}, two measurements of the same code differed by less than {value:.1%} in 95 % "
            "of comparisons"
        )
    else:
        said = f"{when}, there were too few comparisons of the same code to state a resolution"
    reason = check.get("disturbed")
    return f"{said}; {reason}." if reason else f"{said}; nothing disturbed them."


def _change(start: Mapping[str, Any], end: Mapping[str, Any]) -> str | None:
    """How the times of the same calls changed during the run."""
    before, after = _medians(start), _medians(end)
    ratios = [after[case] / before[case] for case in before if case in after]
    if not ratios:
        return None
    ratio = statistics.median(ratios)
    word = "longer" if ratio >= 1 else "less"
    return f"The same calls took {abs(ratio - 1):.1%} {word} at the end than at the start."


def _medians(check: Mapping[str, Any]) -> dict[str, float]:
    cases = check.get("cases")
    return {
        case["case"]: case["median_ms"]
        for case in (cases if isinstance(cases, list) else [])
        if isinstance(case, dict) and isinstance(case.get("median_ms"), float) and "case" in case
    }


def _rows(frame: pd.DataFrame) -> Iterator[str]:
    if COLUMN in frame and (count := int(frame[COLUMN].fillna("").ne("").sum())):
        yield (
            f"{count} of {len(frame)} rows were disturbed while they were measured; the column "
            f"{COLUMN} says by what."
        )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
