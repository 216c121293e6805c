"""Each setting that an implementation may change is found and named, and nothing else is."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.loop.executor import WorkerCall
from bench.loop.local_executor import LocalWorker
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.guarded import guarded
from bench.workloads.process_settings import Fingerprint, differences
from tests import cases, process_changes, worker_faults
from tests.process_changes import CHANGES

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def process() -> Iterator[LocalWorker]:
    """A process that has imported torch but never computed, so that it can be forked."""
    worker = LocalWorker("worker 1", WorkerCall(worker_faults.nothing))
    yield worker
    worker.replace()


@LINUX
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_and_named(process: LocalWorker, name: str) -> None:
    found = process.submit(WorkerCall(process_changes.in_a_fork, (name,), 60)).result()
    pattern = CHANGES[name][1]
    assert any(re.fullmatch(pattern, text) for text in found), found
    assert "secret" not in "".join(found)
    # Some changes show in several settings, such as the precision of CPU and of CUDA.
    assert len(found) == {"precision": 2, "device": 2, "inference": 2, "numpy": 4}.get(name, 1), (
        found
    )


def test_own_work_changes_nothing() -> None:
    before = Fingerprint.take()
    x = torch.randn(200, 200, requires_grad=True)
    (x @ x).sum().backward()
    with torch.no_grad(), torch.autocast("cpu"):
        x @ x
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
    assert differences(before, Fingerprint.take()) == []


def test_a_fingerprint_takes_few_milliseconds() -> None:
    times = []
    for _ in range(20):
        started = time.perf_counter()
        before = Fingerprint.take()
        differences(before, Fingerprint.take())
        times.append(time.perf_counter() - started)
    assert min(times) < 0.02


class TestGuarded:
    def failed(self, status: Status, reason: str) -> Measurement:
        return Measurement.of(cases.case(), status, reason)

    def measured(self) -> tuple[Measurement, Raw]:
        return cases.good(cases.case()), Raw([1.0])

    def test_a_case_that_changes_nothing_keeps_its_row(self) -> None:
        row, raw = guarded(self.measured, self.failed, {})
        assert (row.status, raw.spoiled, raw.samples_ms) == (Status.OK, False, [1.0])

    def test_a_case_that_changes_the_process_has_no_numbers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def work() -> tuple[Measurement, Raw]:
            monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
            return self.measured()

        row, raw = guarded(work, self.failed, {})
        assert row.status is Status.ERROR
        assert row.reason == (
            "the implementation changed the process: function time.perf_counter was replaced"
        )
        assert raw == Raw(spoiled=True)

    def test_a_case_that_fails_keeps_its_status_and_names_the_change(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def work() -> tuple[Measurement, Raw]:
            monkeypatch.chdir(tmp_path)
            raise MemoryError("too much")

        row, raw = guarded(work, self.failed, {})
        assert row.status is Status.OUT_OF_MEMORY
        assert row.reason == (
            "too much; the implementation changed the process: working directory was (path)"
        )
        assert raw.spoiled

    @pytest.mark.parametrize(
        "error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), worker_faults.Wordless()]
    )
    def test_whatever_is_raised_becomes_a_row(self, error: BaseException) -> None:
        def work() -> tuple[Measurement, Raw]:
            raise error

        row, raw = guarded(work, self.failed, {})
        assert row.status is Status.ERROR
        assert row.reason.startswith(type(error).__name__)
        assert not raw.spoiled
