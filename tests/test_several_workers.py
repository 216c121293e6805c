"""The loop with several workers: which case goes where, lost machines, disturbed rows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bench.instruments import roofline
from bench.loop import journal, run_loop, worker_start
from bench.loop.case_queue import CaseQueue
from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied, WorkerKilled, WorkerLost
from bench.loop.machines import RunError
from bench.plan.sweep import Sweep
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.selfcheck import same_code
from bench.workloads.attention import measure_case
from bench.workloads.sweep_workload import SweepWorkload
from tests import cases
from tests.cases import good
from tests.in_process import InProcess

LENGTHS = {"seq_len": (16, 32, 64), "heads": (1, 2)}


class Threaded(InProcess):
    """A worker that runs its calls in a thread, and may be lost in one of them."""

    def __init__(self, name: str, lost_at: int = 0) -> None:
        super().__init__()
        self.name, self.lost_at, self.measured = name, lost_at, 0

    def submit(self, call: WorkerCall) -> Future[Any]:
        future: Future[Any] = Future()
        if call.function.__name__ == "measured":
            self.measured += 1
            if self.measured == self.lost_at:
                future.set_exception(WorkerLost(f"{self.name} cannot be reached"))
                return future

        def work() -> None:
            try:
                future.set_result(call.function(*call.arguments))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=work).start()
        return future


class Cluster:
    """Several workers; those that were lost are no longer listed."""

    several_machines = True

    def __init__(self, *workers: Threaded) -> None:
        self._all = workers

    def workers(self) -> Sequence[Threaded]:
        return [one for one in self._all if not one.lost_at or one.measured < one.lost_at]

    def close(self) -> None:
        pass


def measured(asked: Any, given: Any, exact: bool) -> tuple[Measurement, Raw]:
    return good(asked), Raw([1.0])


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Runs measure nothing."""
    monkeypatch.setattr(measure_case, "measure", measured)
    monkeypatch.setattr(measure_case, "measure_exact", cases.no_exact)
    monkeypatch.setattr(roofline, "measure_device", cases.limits)
    monkeypatch.setattr(same_code, "short", lambda *_: {"resolution": 0.1})
    return monkeypatch


def workload(**axes: Any) -> SweepWorkload:
    group = {"variant": ("sliding_window window_size=8", "linear"), "head_dim": (16,)}
    return SweepWorkload(Sweep("tiny", (group | LENGTHS | axes,)), "cpu", {}, 0.01, 60.0)


def test_two_workers_give_the_rows_of_one(tmp_path: Path) -> None:
    one = run_loop.run(workload(), tmp_path / "one", InProcess())
    first, second = Threaded("a"), Threaded("b")
    two = run_loop.run(workload(), tmp_path / "two", Cluster(first, second))
    assert two == one
    assert min(first.measured, second.measured) > 0
    assert first.measured + second.measured == len(one)


def test_the_cases_of_a_lost_machine_are_measured_elsewhere_and_say_so(tmp_path: Path) -> None:
    lost, kept = Threaded("a", lost_at=2), Threaded("b")
    rows = run_loop.run(workload(), tmp_path, Cluster(lost, kept))
    assert {row.status for row in rows} == {Status.OK}
    moved = [row for row in rows if row.repeated_because]
    assert [(row.repeated_because, row.attempts) for row in moved] == [("its machine was lost", 2)]


def test_a_case_during_which_machines_are_lost_is_not_tried_for_ever(tmp_path: Path) -> None:
    asked = workload(variant=("linear",), seq_len=(16,), heads=(1,))
    assert len(asked.cases) == 2  # two feature maps
    lost = [Threaded(name, lost_at=1) for name in "abc"]
    rows = run_loop.run(asked, tmp_path, Cluster(*lost, Threaded("d")))
    assert Status.OK in {row.status for row in rows}
    failed = [row for row in rows if row.status is Status.CRASHED]
    assert [row.reason for row in failed] in ([], ["its machine was lost 3 times"])


@pytest.mark.parametrize("again", ["ok", "ok and disturbed", "error"])
def test_a_disturbed_row_is_measured_again_once_at_the_end(
    tmp_path: Path, instant: pytest.MonkeyPatch, again: str
) -> None:
    order: list[tuple[int, int]] = []

    def disturbed(asked: Any, given: Any, exact: bool) -> tuple[Measurement, Raw]:
        order.append((asked.seq_len, asked.heads))
        first = order.count(order[-1]) == 1
        if order[-1] != (16, 1):
            return good(asked), Raw()
        if not first and again == "error":
            return Measurement.of(asked, Status.ERROR, "bad"), Raw()
        noise = "other processes used 1 of 2 cores" if first or "disturbed" in again else ""
        return good(asked, time_ms_median=2.0 if first else 1.0, disturbed=noise), Raw()

    instant.setattr(measure_case, "measure", disturbed)
    worker = InProcess()
    rows = run_loop.run(workload(variant=("sliding_window window_size=8",)), tmp_path, worker)
    assert order.count((16, 1)) == 2
    assert order[-1] == (16, 1)
    (row,) = [row for row in rows if (row.case.seq_len, row.case.heads) == (16, 1)]
    assert row.status is Status.OK
    assert row.time_ms_median == (2.0 if again == "error" else 1.0)
    assert bool(row.disturbed) == (again != "ok")
    assert (row.repeated_because, row.attempts) == ("other load disturbed it", 2)
    assert worker.replaced >= 1  # its baselines may have been disturbed, too


def test_baselines_are_tried_in_a_second_process(
    tmp_path: Path, instant: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def dies_once(asked: Any, given: Any) -> None:
        tries.append(asked.seq_len)
        if len(tries) == 1:
            raise WorkerDied("the worker process was ended by SIGKILL")

    seen: list[bool] = []

    def look(asked: Any, given: Any, exact: bool) -> tuple[Measurement, Raw]:
        seen.append(exact)
        return good(asked), Raw()

    instant.setattr(measure_case, "measure_exact", dies_once)
    instant.setattr(measure_case, "measure", look)
    run_loop.run(workload(seq_len=(16,), heads=(1,)), tmp_path, InProcess())
    assert tries == [16, 16]
    assert all(seen)


def test_baselines_that_take_too_long_are_not_tried_again(
    tmp_path: Path, instant: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def too_long(asked: Any, given: Any) -> None:
        tries.append(asked.seq_len)
        raise CallTimeout

    instant.setattr(measure_case, "measure_exact", too_long)
    run_loop.run(workload(seq_len=(16,), heads=(1,)), tmp_path, InProcess())
    assert tries == [16]


def test_a_run_ends_if_every_machine_is_refused(
    tmp_path: Path, instant: pytest.MonkeyPatch
) -> None:
    run_loop.run(workload(seq_len=(16,)), tmp_path, InProcess())
    described = worker_start.describe

    def other(device: str) -> dict[str, Any]:
        found = described(device)
        return {**found, "host": "another", "software": {**found["software"], "torch": "1.0"}}

    instant.setattr(worker_start, "describe", other)
    recorded = journal.read(tmp_path, SweepWorkload)
    asked = workload()
    cluster = Cluster(Threaded("a"), Threaded("b"))
    with pytest.raises(RunError, match=r"other software: torch was .* and is '1.0'"):
        run_loop.run(asked, tmp_path, cluster, recorded)


def test_cases_of_one_series_wait_for_each_other() -> None:
    queue = CaseQueue(workload(), workload(variant=("linear feature_map=elu",), heads=(1,)).cases)
    first = queue.take(None, ())
    assert first is not None
    assert first.seq_len == 16
    assert queue.take(None, ()) is None
    queue.done(first)
    second = queue.take(None, ())
    assert second is not None
    assert second.seq_len == 32


def test_a_worker_keeps_its_group_and_leaves_those_of_others() -> None:
    asked = workload(seq_len=(16,), heads=(1, 2))
    queue = CaseQueue(asked, asked.cases)
    one = queue.take(None, ())
    assert one is not None
    two = queue.take(None, [asked.group(one)])
    assert two is not None
    assert asked.group(two) != asked.group(one)
    three = queue.take(asked.group(one), [asked.group(two)])
    assert three is not None
    assert asked.group(three) == asked.group(one)


@pytest.mark.parametrize("kills", [1, 2])
def test_a_case_whose_worker_was_killed_is_tried_once_more(
    tmp_path: Path, instant: pytest.MonkeyPatch, kills: int
) -> None:
    left = [WorkerKilled("the worker process was ended by SIGKILL")] * kills

    def killed(asked: Any, given: Any, exact: bool) -> tuple[Measurement, Raw]:
        if asked.heads == 2 and left:
            raise left.pop()
        return good(asked), Raw()

    instant.setattr(measure_case, "measure", killed)
    asked = workload(seq_len=(16,), variant=("sliding_window window_size=8",))
    one, two, *_ = run_loop.run(asked, tmp_path, InProcess())
    row = one if one.case.heads == 2 else two
    assert row.attempts == 2
    assert row.repeated_because == "its worker process was killed"
    if kills == 1:
        assert row.status is Status.OK
    else:
        assert (row.status, row.reason) == (
            Status.CRASHED,
            "the worker process was ended by SIGKILL",
        )
