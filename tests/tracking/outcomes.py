"""The exit status of a run of the benchmarks, from the outcomes of its cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from bench.cli.gate_command import FINE, INVALID, NOT_MEASURED, REGRESSION
from bench.schema.case_names import count_of_cases

MOST_NAMED = 8  # cases that are named in a list


@dataclass
class Outcomes:
    """The outcomes of the cases of a run.

    Attributes:
        passed: node ids of the cases that were measured, with a right output.
        unmeasured: why a case has no time, by node id.
        selected: the names of the selected cases by node id, for a comparison.
        comparable: node ids of the selected cases that the stored runs hold.
        inaccurate: whether an output was wrong.
        regressed: whether a time exceeds the limit of `--benchmark-compare-fail`.
        failed: whether a case ended with an error.
        refused: whether the input was refused.
    """

    passed: set[str] = field(default_factory=set)
    unmeasured: dict[str, str] = field(default_factory=dict)
    selected: Mapping[str, str] = field(default_factory=dict)
    comparable: set[str] = field(default_factory=set)
    inaccurate: bool = False
    regressed: bool = False
    failed: bool = False
    refused: bool = False

    def add(
        self, report: pytest.TestReport, raised: pytest.ExceptionInfo[BaseException] | None
    ) -> None:
        """Add the report of a phase of a test."""
        if report.passed and report.when == "call":
            self.passed.add(report.nodeid)
        if report.skipped and raised is not None:
            self.unmeasured[report.nodeid] = str(raised.value)
        if report.failed and raised is not None:
            self.unmeasured[report.nodeid] = "failed"
            if isinstance(raised.value, pytest.fail.Exception):
                self.inaccurate = True
            else:
                self.failed = True

    def status(self, config: pytest.Config, ended: int) -> int:
        """The exit status of a session that pytest would end with the status `ended`."""
        if self.refused or ended == pytest.ExitCode.NO_TESTS_COLLECTED:
            return INVALID
        if self.inaccurate or self.regressed:
            return REGRESSION
        if self.failed or ended != pytest.ExitCode.OK:
            return NOT_MEASURED
        if config.option.benchmark_compare and not config.option.collectonly:
            is_measured = not config._benchmarksession.disabled
            if not is_measured or not self.passed & self.comparable:
                return NOT_MEASURED
            if config.option.benchmark_compare_fail and (self._new or self._missing):
                return NOT_MEASURED
        return FINE

    def uncompared(self, config: pytest.Config) -> Iterator[str]:
        """A sentence on the cases without a stored time, one on those with a stored time that were
        not measured, and one on the next step if they decide the exit status."""
        if config.option.collectonly:
            return
        new = [self.selected[case] for case in self._new]
        missing = [
            f"{self.selected[case]} ({self.unmeasured.get(case, 'not run')})"
            for case in self._missing
        ]
        if new:
            yield (
                f"not compared: {count_of_cases(len(new))} without a stored time: "
                f"{_listed(new, ', ')}"
            )
        if missing:
            yield (
                f"not compared: {count_of_cases(len(missing))} with a stored time, not measured "
                f"now: {_listed(missing, '; ')}"
            )
        if config.option.benchmark_compare_fail and (new or missing):
            yield (
                "--benchmark-compare-fail judges a run only if all cases can be compared; "
                "`make track` stores a run, --benchmark-compare=NUMBER takes an older one"
            )

    @property
    def _new(self) -> list[str]:
        return [case for case in self.selected if case in self.passed - self.comparable]

    @property
    def _missing(self) -> list[str]:
        return [case for case in self.selected if case in self.comparable - self.passed]


def _listed(words: Sequence[str], between: str) -> str:
    more = f"{between}and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    return f"{between.join(words[:MOST_NAMED])}{more}"


OUTCOMES = pytest.StashKey[Outcomes]()
