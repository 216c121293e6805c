"""The exit status of a run of the benchmarks, from the outcomes of its cases."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

FINE, REGRESSION, NOT_MEASURED, BAD_INPUT = range(4)


@dataclass
class Outcomes:
    """The outcomes of the cases of a run.

    Attributes:
        passed: node ids of the cases that were measured, with a right output.
        comparable: node ids of the cases that the stored runs hold.
        inaccurate: whether an output was wrong.
        regressed: whether a time exceeds the limit of `--benchmark-compare-fail`.
        failed: whether a case ended with an error.
        refused: whether the input was refused.
    """

    passed: set[str] = field(default_factory=set)
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
        if report.failed and raised is not None:
            if isinstance(raised.value, pytest.fail.Exception):
                self.inaccurate = True
            else:
                self.failed = True

    def status(self, config: pytest.Config, ended: int) -> int:
        """The exit status of a session that pytest would end with the status `ended`."""
        if self.refused or ended == pytest.ExitCode.NO_TESTS_COLLECTED:
            return BAD_INPUT
        if self.inaccurate or self.regressed:
            return REGRESSION
        if self.failed or ended != pytest.ExitCode.OK:
            return NOT_MEASURED
        if config.option.benchmark_compare and not config.option.collectonly:
            is_measured = not config._benchmarksession.disabled
            return FINE if is_measured and self.passed & self.comparable else NOT_MEASURED
        return FINE


OUTCOMES = pytest.StashKey[Outcomes]()
