"""The run loop: a case may end its worker process but not the run, and a run may die and be
resumed."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.instruments import roofline
from bench.loop import journal, run_loop, worker_start
from bench.loop.executor import CallTimeout, Executor, WorkerCall, WorkerDied
from bench.loop.journal import FILE, Journal
from bench.loop.local_executor import LocalExecutor
from bench.loop.machines import RunError
from bench.loop.workload import Entry
from bench.plan.sweep import Sweep
from bench.schema.case import Case
from bench.schema.measurement import HeadRow, Measurement, Raw
from bench.schema.origin import Origin
from bench.schema.outcome import Status
from bench.workloads.attention import measure_case
from bench.workloads.sweep_workload import SweepWorkload
from tests import cases
from tests.cases import HANGS, HEAD, HEADER, KILLED, TOO_LONG, capture_file, good, texts
from tests.in_process import InProcess

ROOT = Path(__file__).parent.parent
ONE = "sliding_window window_size=8"
# One of these variants is unsupported on a CPU.
THREE = ",".join(f"full implementation={name}" for name in ("sdpa", "plain", "xformers"))
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        columns = (*Measurement.columns(), *Origin.columns())
        assert tuple(rows.fieldnames or ()) == columns
        return list(rows)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def run(
    folder: Path,
    *groups: Mapping[str, tuple[Any, ...]],
    executor: Executor | None = None,
    resume: bool = False,
    **more: Any,
) -> list[Measurement]:
    """Run a sweep; without an executor in this process."""
    given = {"slow_call": more.pop("slow_call", math.inf), "energy": more.pop("energy", 0.0)}
    sweep = Sweep(
        "tiny", tuple({"variant": (ONE,), "head_dim": (16,), **g} for g in groups), **given
    )
    options = {"on": "cpu", "files": {}, "seconds": 0.001, "timeout": 60.0} | more
    workload = SweepWorkload(sweep, **options)
    recorded = journal.read(folder, SweepWorkload) if resume else None
    return run_loop.run(workload, folder, executor or InProcess(), recorded)


def local(folder: Path) -> LocalExecutor:
    return LocalExecutor(WorkerCall(worker_start.start, (False,)), log=folder / "worker.log")


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its rows in planned order, and its folder."""

    rows: list[Measurement]
    folder: Path

    def of(self, **asked: int) -> Measurement:
        (row,) = [r for r in self.rows if all(getattr(r.case, k) == v for k, v in asked.items())]
        return row


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A sweep of good cases with one case that is killed, one that hangs and several that are too
    long."""
    folder = tmp_path_factory.mktemp("misfortunes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_case, "measure", cases.misfortune)
        patch.setattr(roofline, "measure_device", cases.limits)
        patch.setattr(measure_case, "measure_exact", cases.unfortunate_exact)
        rows = run(
            folder,
            {"seq_len": (16,), "seed": (0, 1, KILLED, 2, 3, HANGS, 4)},
            # With another batch size, because a finished shorter length would cause these cases to
            # be skipped.
            {"seq_len": (TOO_LONG, 2 * TOO_LONG, 3 * TOO_LONG), "batch": (2,)},
            {"seq_len": (TOO_LONG,), "seed": (1,), "batch": (2,)},
            {"seq_len": (16,), "heads": (5, 7), "variant": (ONE, "linear feature_map=elu")},
            timeout=1.5,
            executor=local(folder),
        )
    return Ended(rows, folder)


class TestFailingWorkers:
    def test_every_case_has_one_row(self, ended: Ended) -> None:
        assert len(ended.rows) == 15
        assert len({row.case.case_id for row in ended.rows}) == 15
        for stored, row in zip(table(ended.folder), ended.rows, strict=True):
            assert stored["seed"] == str(row.case.seed)
            assert stored["status"] == row.status

    def test_a_killed_worker_gives_a_crashed_row(self, ended: Ended) -> None:
        row = ended.of(seed=KILLED)
        assert row.status is Status.CRASHED
        assert "ended by SIGKILL" in row.reason

    def test_a_worker_that_hangs_gives_a_timeout_row(self, ended: Ended) -> None:
        row = ended.of(seed=HANGS)
        assert (row.status, row.reason) == (Status.TIMEOUT, "took longer than 1.5 s")

    def test_a_case_that_is_too_long_is_out_of_memory_and_longer_ones_are_skipped(
        self, ended: Ended
    ) -> None:
        row = ended.of(seq_len=TOO_LONG, seed=0)
        assert row.status is Status.OUT_OF_MEMORY
        assert "can't allocate memory" in row.reason
        for times in (2, 3):
            row = ended.of(seq_len=times * TOO_LONG)
            assert row.status is Status.SKIPPED
            assert row.reason == f"out_of_memory already at seq_len {TOO_LONG}"

    def test_another_case_of_the_same_length_is_tried(self, ended: Ended) -> None:
        assert ended.of(seq_len=TOO_LONG, seed=1).status is Status.OUT_OF_MEMORY

    def test_the_sweep_continues_after_each_failure(self, ended: Ended) -> None:
        good = [row for row in ended.rows if row.status is Status.OK]
        assert {row.case.seed for row in good} == {0, 1, 2, 3, 4}

    def test_a_worker_is_used_until_it_fails(self, ended: Ended) -> None:
        def process(seed: int) -> str:
            return ended.of(seq_len=16, seed=seed, heads=8).inputs_detail

        assert process(0) == process(1)
        assert process(2) == process(3)
        assert len({process(seed) for seed in (0, 2, 4)}) == 3
        assert process(0) != f"process {os.getpid()}"

    @pytest.mark.parametrize("heads", [5, 7])
    def test_if_exact_attention_hangs_or_dies_only_the_comparison_is_missing(
        self, ended: Ended, heads: int
    ) -> None:
        rows = [row for row in ended.rows if row.case.heads == heads]
        assert [(row.status, row.exact_implementation) for row in rows] == [
            (Status.OK, "unknown"),
            (Status.OK, "unknown"),
        ]
        # Exact attention is tried only once: the second variant uses the same process.
        assert rows[0].inputs_detail == rows[1].inputs_detail
        assert ended.of(seq_len=16, seed=0, heads=8).exact_implementation == "known"

    def test_the_journal_has_the_same_rows(self, ended: Ended) -> None:
        record = journal.read(ended.folder, SweepWorkload)
        assert [record.results[row.case.case_id] for row in ended.rows] == ended.rows
        started = {
            event["case_id"] for event in events(ended.folder) if event["event"] == "started"
        }
        skipped = {row.case.case_id for row in ended.rows if row.status is Status.SKIPPED}
        assert started == {row.case.case_id for row in ended.rows} - skipped


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Runs measure nothing."""
    monkeypatch.setattr(measure_case, "measure", cases.instant)
    monkeypatch.setattr(roofline, "measure_device", cases.limits)
    monkeypatch.setattr(measure_case, "measure_exact", cases.no_exact)
    return monkeypatch


LENGTHS = {"seq_len": (16, 32, 64)}


class TestOrderOfEvents:
    def test_a_case_is_recorded_in_the_journal_before_it_is_measured(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def look(asked: Any, given: Any, exact: bool) -> Any:
            seen.append((asked.case_id, events(tmp_path)[-1]))
            return cases.instant(asked, given)

        in_process.setattr(measure_case, "measure", look)
        rows = run(tmp_path, LENGTHS)
        assert [case_id for case_id, _ in seen] == [row.case.case_id for row in rows]
        for case_id, last in seen:
            assert (last["event"], last["case_id"]) == ("started", case_id)

    def test_the_run_is_described_before_the_first_case(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        run(tmp_path, LENGTHS)
        header = events(tmp_path)[0]
        assert header["event"] == "run"
        assert header["device"] == "cpu"
        stored = json.loads((tmp_path / "environment.json").read_text())
        assert {*stored} - {*header["environment"]} == {"selfchecks", "durations"}
        assert stored.items() >= header["environment"].items()
        assert stored["limits"]["matmul_tflops"] == {"float32": 1e6}
        assert stored["sweep"]["groups"][0]["seq_len"] == [16, 32, 64]
        assert stored["sweep"]["timeout"] == 60.0
        assert stored["sweep"]["knobs"] == {"sliding_window": "window_size=256"}

    def test_settings_are_passed_to_the_worker(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def look(asked: Any, given: Any, exact: bool) -> Any:
            seen.append(given)
            return cases.instant(asked, given)

        in_process.setattr(measure_case, "measure", look)
        run(tmp_path, {"seq_len": (16,), "dtype": ("float32", "bfloat16")}, seconds=0.02)
        assert seen[0].seconds == 0.02
        assert seen[0].matmul_tflops == {"float32": 1e6, "bfloat16": 1e6}

    def test_exact_attention_is_measured_once_for_a_shape_in_each_process(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        lengths = []
        in_process.setattr(
            measure_case, "measure_exact", lambda asked, _: lengths.append(asked.seq_len)
        )

        def fail_once(asked: Any, given: Any, exact: bool) -> Any:
            assert exact
            if asked.attention.hyperparameters == "window_size=2":
                return Measurement.of(asked, Status.ERROR, "bad"), Raw()
            return cases.instant(asked, given)

        in_process.setattr(measure_case, "measure", fail_once)
        sizes = tuple(f"sliding_window window_size={size}" for size in (1, 2, 3, 4))
        run(tmp_path, {"seq_len": (16, 32), "variant": sizes})
        # Measured again in the process that follows the failed one.
        assert lengths == [16, 16, 32, 32]

    @pytest.mark.parametrize("failure", [Status.OUT_OF_MEMORY, Status.TIMEOUT])
    def test_only_longer_lengths_of_the_same_case_are_skipped(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch, failure: Status
    ) -> None:
        def fail_at_32(asked: Any, given: Any, exact: bool) -> Any:
            if asked.seq_len == 32 and asked.heads == 2:
                return Measurement.of(asked, failure, "too much"), Raw()
            return cases.instant(asked, given)

        in_process.setattr(measure_case, "measure", fail_at_32)
        rows = run(tmp_path, {**LENGTHS, "heads": (1, 2), "causal": (False,)})
        assert {(r.case.seq_len, r.case.heads): r.status for r in rows} == {
            (16, 1): Status.OK,
            (16, 2): Status.OK,
            (32, 1): Status.OK,
            (32, 2): failure,
            (64, 1): Status.OK,
            (64, 2): Status.SKIPPED,
        }

    def test_a_slow_method_is_skipped_if_the_sweep_has_a_limit_also_when_it_is_resumed(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        def slow(asked: Any, given: Any, exact: bool) -> Any:
            seen = {"time_ms_median": 1e3, "speedup_vs_exact": 0.1}
            return good(asked, **seen), Raw()

        in_process.setattr(measure_case, "measure", slow)
        group = {"variant": ("full", "top_k top_k=4"), "seq_len": (16, 32)}
        rows = run(tmp_path, group, slow_call=2.0, energy=0.5)
        skipped = [
            (row.case.variant, row.case.seq_len) for row in rows if row.status is Status.SKIPPED
        ]
        assert skipped == [("top_k", 32)]
        recorded = json.loads((tmp_path / "environment.json").read_text())["sweep"]
        assert recorded["slow_call"] == 2.0
        assert recorded["energy"] == 0.5

    def test_a_case_that_would_exceed_the_timeout_by_forecast_is_skipped(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        measured = []

        def slow(asked: Any, given: Any, exact: bool) -> Any:
            measured.append(asked.seq_len)
            return good(asked, time_ms_median=1e3 * asked.seq_len), Raw()

        in_process.setattr(measure_case, "measure", slow)
        lengths = {"seq_len": (16, 32, 64, 128)}
        rows = run(tmp_path, lengths | {"causal": (False,)}, timeout=500.0)
        statuses = [Status.OK, Status.OK, Status.OK, Status.SKIPPED]
        assert [row.status for row in rows] == statuses
        assert measured == [16, 32, 64]
        assert [e["case_id"] for e in events(tmp_path) if e["event"] == "started"] == [
            row.case.case_id for row in rows[:3]
        ]
        # A resumed run makes the same forecast from the existing rows.
        lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
        last = max(n for n, line in enumerate(lines) if '"event": "result"' in line)
        (tmp_path / FILE).write_text("".join(lines[:last]))
        again = run(tmp_path, lengths | {"causal": (False,)}, timeout=500.0, resume=True)
        assert again == rows
        assert measured == [16, 32, 64]

    def test_exact_attention_is_never_skipped_by_forecast(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        """Its rows are measured as baselines in any case."""
        in_process.setattr(
            measure_case, "measure", lambda asked, *_: (good(asked, time_ms_median=1e6), Raw())
        )
        rows = run(tmp_path, {**LENGTHS, "variant": ("full implementation=sdpa",)}, timeout=1.0)
        assert {row.status for row in rows} == {Status.OK}

    def test_baselines_have_more_time_than_a_case(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        worker = InProcess()
        run(tmp_path, LENGTHS, timeout=2.0, executor=worker)
        allowed = worker.timeouts
        assert allowed["no_exact"] == 3 * allowed["instant"] == 6.0

    @pytest.mark.parametrize("failure", [Status.ERROR, Status.INCORRECT, Status.CRASHED])
    def test_other_failures_do_not_stop_longer_cases(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch, failure: Status
    ) -> None:
        in_process.setattr(
            measure_case,
            "measure",
            lambda asked, *_: (Measurement.of(asked, failure, "bad"), Raw()),
        )
        assert {row.status for row in run(tmp_path, LENGTHS)} == {failure}

    @pytest.mark.parametrize(
        ("status", "replaced"),
        [
            (Status.OK, 0),
            (Status.UNSUPPORTED, 0),
            (Status.OUT_OF_MEMORY, 1),  # then two skipped cases, which need no worker
            (Status.ERROR, 3),
            (Status.INCORRECT, 3),
        ],
    )
    def test_the_worker_is_replaced_only_after_a_failure(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch, status: Status, replaced: int
    ) -> None:
        def measure(asked: Any, given: Any, exact: bool) -> Any:
            if status is Status.OK:
                return cases.instant(asked, given)
            return Measurement.of(asked, status, "why"), Raw()

        in_process.setattr(measure_case, "measure", measure)
        worker = InProcess()
        run(tmp_path, LENGTHS, executor=worker)
        assert worker.replaced == replaced

    def test_results_are_written_in_planned_order_with_unchanged_rows(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        in_process.setattr(
            measure_case,
            "measure",
            lambda asked, *_: (
                good(asked, mass_recall=0.1 + 0.2, inputs_detail='a, "b"\nc'),
                Raw(),
            ),
        )
        run(tmp_path, {"seq_len": (64, 16, 32)})
        stored = table(tmp_path)
        assert [row["seq_len"] for row in stored] == ["16", "32", "64"]
        assert {float(row["mass_recall"]) for row in stored} == {0.1 + 0.2}
        assert {row["inputs_detail"] for row in stored} == {'a, "b"\nc'}
        assert {row["layer"] for row in stored} == {"-1"}

    def test_heads_have_a_separate_table(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        in_process.setattr(
            measure_case, "measure", lambda asked, *_: (good(asked), Raw([1.0], [HEAD, HEAD]))
        )
        run(tmp_path, LENGTHS)
        with (tmp_path / "heads.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[0]) == (*Case.columns(), *HeadRow.columns())
        assert [row["seq_len"] for row in rows] == ["16", "16", "32", "32", "64", "64"]
        assert {float(row["top64_mass"]) for row in rows} == {0.1 + 0.2}
        before = (tmp_path / "heads.csv").read_bytes()
        (tmp_path / "heads.csv").unlink()
        run(tmp_path, LENGTHS, resume=True)
        assert (tmp_path / "heads.csv").read_bytes() == before

    def test_exact_attention_is_not_measured_if_it_would_exceed_the_time(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        """Seven calls over 2^40 pairs of 8 heads and 64 channels, at 1 TFLOP/s."""
        asked_for: list[bool] = []

        def look(asked: Case, given: Any, exact: bool) -> tuple[Measurement, Raw]:
            asked_for.append(exact)
            return good(asked), Raw()

        slow = {"matmul_tflops": {"float32": 1.0}, "copy_gb_per_s": 1.0}
        in_process.setattr(roofline, "measure_device", lambda *_: slow)
        in_process.setattr(measure_case, "measure", look)
        variants = ("full implementation=sdpa", "sliding_window window_size=4")
        sweep = {"seq_len": (1 << 20,), "heads": (8,), "head_dim": (64,), "variant": variants}
        exact, window = run(tmp_path, sweep, timeout=300.0)
        assert exact.status is Status.SKIPPED
        assert "would take at least 1.6e+04 s at the whole matmul rate of 1 TFLOP/s" in exact.reason
        assert window.status is Status.OK
        assert asked_for == [False]

    def test_results_are_written_during_the_run(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        lengths = []

        def look(asked: Any, given: Any, exact: bool) -> Any:
            lengths.append(len(table(tmp_path)) if (tmp_path / "results.csv").exists() else 0)
            return cases.instant(asked, given)

        in_process.setattr(run_loop, "REWRITE_SECONDS", -1.0)
        in_process.setattr(measure_case, "measure", look)
        run(tmp_path, LENGTHS)
        assert lengths == [0, 1, 2]


class TestRefusals:
    def test_a_folder_with_a_run_is_refused(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        run(tmp_path, LENGTHS)
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(RunError, match="holds a run already; continue it with --resume"):
            run(tmp_path, LENGTHS)
        assert (tmp_path / FILE).read_bytes() == before

    @pytest.mark.parametrize("left", ["", '{"event": "run", "dev'])
    def test_a_run_that_died_before_its_header_can_be_started_again(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch, left: str
    ) -> None:
        (tmp_path / FILE).write_text(left)
        assert len(run(tmp_path, LENGTHS)) == 3
        assert events(tmp_path)[0]["event"] == "run"

    def test_a_folder_that_cannot_be_made_is_named(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match=r"cannot write to .*file.run: Not a directory$"):
            run(tmp_path / "file" / "run", LENGTHS)

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (CallTimeout("Task timeout", 300.0), "took longer than 300 s; see .*worker.log"),
            (WorkerDied("the worker process ended"), "the worker process ended; see .*worker.log"),
        ],
    )
    def test_a_failed_description_of_the_machine_is_not_reported_as_a_full_disk(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch, error: Exception, message: str
    ) -> None:
        def fail(*_: Any) -> None:
            raise error

        in_process.setattr(roofline, "measure_device", fail)
        with pytest.raises(RunError, match=f"could not prepare worker: {message}"):
            run(tmp_path, LENGTHS)
        in_process.setattr(roofline, "measure_device", cases.limits)
        assert len(run(tmp_path, LENGTHS)) == 3

    def test_the_description_of_the_machine_has_more_time_than_a_case(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        worker = InProcess()
        run(tmp_path, LENGTHS, timeout=1.0, executor=worker)
        allowed = worker.timeouts
        assert allowed["instant"] == 1.0
        assert allowed["describe"] == allowed["limits"] >= 60


class TestResuming:
    def test_measured_cases_are_not_measured_again(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        rows = run(tmp_path, LENGTHS)
        whole = (tmp_path / FILE).read_text().splitlines(keepends=True)
        measured = []

        def measure(asked: Any, given: Any, exact: bool) -> Any:
            measured.append(asked)
            return good(asked, time_ms_median=7.0), Raw()

        in_process.setattr(measure_case, "measure", measure)
        # The header, a complete case, and a case that was started when the run died.
        (tmp_path / FILE).write_text("".join(whole[:4]) + whole[4][:50])
        resumed = run(tmp_path, LENGTHS, resume=True)
        assert measured == [row.case for row in rows[1:]]
        assert [row.time_ms_median for row in resumed] == [1.0, 7.0, 7.0]
        assert [row["time_ms_median"] for row in table(tmp_path)] == ["1.0", "7.0", "7.0"]
        assert [event["event"] for event in events(tmp_path)].count("run") == 1

    def test_a_finished_run_only_writes_its_tables_again(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        run(tmp_path, LENGTHS)
        before = (tmp_path / "results.csv").read_bytes()
        (tmp_path / "results.csv").unlink()
        in_process.delattr(measure_case, "measure")
        run(tmp_path, LENGTHS, resume=True)
        assert (tmp_path / "results.csv").read_bytes() == before

    def test_the_description_is_written_again(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        run(tmp_path, LENGTHS)
        before = (tmp_path / "environment.json").read_bytes()
        (tmp_path / "environment.json").unlink()
        run(tmp_path, LENGTHS, resume=True)
        assert (tmp_path / "environment.json").read_bytes() == before

    def test_the_limits_are_those_of_the_first_start(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        run(tmp_path, {"seq_len": (16,)})
        in_process.delattr(roofline, "measure_device")
        given = []
        in_process.setattr(
            measure_case,
            "measure",
            lambda asked, g, _: (given.append(g), cases.instant(asked, g))[1],
        )
        run(tmp_path, LENGTHS, resume=True)
        assert {tuple(g.matmul_tflops.items()) for g in given} == {(("float32", 1e6),)}

    def test_a_case_that_killed_the_run_twice_is_not_tried_again(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        rows = run(tmp_path, LENGTHS)
        header = (tmp_path / FILE).read_text().splitlines(keepends=True)[0]
        (tmp_path / FILE).write_text(header)
        book = Journal(tmp_path)
        for index in (0, 1, 1):
            book.started(rows[index].case)
        book.close()
        first, second, third = run(tmp_path, LENGTHS, resume=True)
        assert (first.status, third.status) == (Status.OK, Status.OK)
        assert second.status is Status.CRASHED
        assert second.reason == "the whole run died 2 times during this case"

    @pytest.mark.parametrize("moment", ["started", "result"])
    def test_interrupts_do_not_count_as_deaths(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch, moment: str
    ) -> None:
        """Neither during a case nor while its start or its result is written."""
        run(tmp_path, {"seq_len": (16,)})
        write = getattr(Journal, moment)

        def interrupted(self: Journal, *what: Any) -> None:
            if moment == "started":
                write(self, *what)
            raise KeyboardInterrupt

        in_process.setattr(Journal, moment, interrupted)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, LENGTHS, resume=True)
        in_process.setattr(Journal, moment, write)
        assert {row.status for row in run(tmp_path, LENGTHS, resume=True)} == {Status.OK}

    def test_another_machine_is_refused(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch
    ) -> None:
        run(tmp_path, {"seq_len": (16,)})
        edited = events(tmp_path)
        edited[0]["environment"]["hardware"]["processor"] = "Another CPU"
        (tmp_path / FILE).write_text("".join(json.dumps(event) + "\n" for event in edited))
        before = (tmp_path / FILE).read_bytes()
        with pytest.raises(RunError, match=r"another machine .*processor was 'Another CPU' and is"):
            run(tmp_path, LENGTHS, resume=True)
        assert (tmp_path / FILE).read_bytes() == before

    @pytest.mark.parametrize("written", [4, 5, 6])
    def test_a_full_disk_ends_the_run_and_keeps_the_rows(
        self, tmp_path: Path, in_process: pytest.MonkeyPatch, written: int
    ) -> None:
        """The disk is full at the start of the second case, at its result, or at the start of the
        third case."""
        synced = []
        fsync = os.fsync

        def full(number: int) -> None:
            synced.append(number)
            if len(synced) > written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(number)

        in_process.setattr(os, "fsync", full)
        with pytest.raises(RunError) as caught:
            run(tmp_path, LENGTHS)
        assert str(caught.value) == (
            f"cannot write to {tmp_path}: No space left on device; measured rows are kept, "
            f"continue with --resume {tmp_path}"
        )
        kept = journal.read(tmp_path, SweepWorkload).results.values()
        assert [row.case.seq_len for row in kept] == ([16] if written == 4 else [16, 32])
        in_process.setattr(os, "fsync", fsync)
        assert {row.status for row in run(tmp_path, LENGTHS, resume=True)} == {Status.OK}


# The real command, in separate processes.


@dataclass(frozen=True)
class Finished:
    """A finished run of the command, and the data that a second run needs."""

    folder: Path
    capture: Path
    environment: dict[str, str]

    def start(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "bench", "run", *map(str, words), "--seconds", "0.01"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A background job of a shell ignores Ctrl-C and its child processes would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def again(self, folder: Path) -> Path:
        """A folder in which the same run is described but not started."""
        folder.mkdir(exist_ok=True)
        with (self.folder / FILE).open() as file:
            (folder / FILE).write_text(file.readline())
        return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("somebody-here")
    capture = folder / "some.safetensors"
    capture_file(capture)
    names = {"USER": "somebody-here", "LOGNAME": "somebody-here", "HOSTNAME": "somewhere-here"}
    paths = dict.fromkeys(("TORCH_HOME", "OMP_TOOL_LIBRARIES"), f"{folder}/somewhere-here")
    # One thread, because two threads that wait for each other are very slow on a busy machine.
    environment = {**os.environ, **names, **paths, "OMP_NUM_THREADS": "1"}
    made = Finished(folder / "run", capture, environment)
    axes = {
        "seq_len": "8,16",
        "variant": f"{THREE},linear,{ONE}",
        "heads": "8",
        "kv_heads": "4",
        "head_dim": "8",
        "inputs": f"file:{capture}",
        "causal": "true",
    }
    words = [word for axis, values in axes.items() for word in ("--set", f"{axis}={values}")]
    process = made.start(*words, "--out", made.folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == f"{made.folder}\n"
    assert "12 of 12 cases" in err
    return made


def wait_for_results(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if (folder / FILE).read_text().count('"event": "result"') >= count:
            return
        time.sleep(0.005)
    raise AssertionError("the run does not get on")


def family(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def outcome(folder: Path) -> list[tuple[str, ...]]:
    """The columns that two runs of one sweep must have in common."""
    same = (*tuple(Case.columns()), "status", "reason", "implementation_used", "inputs_detail",
            "peak_memory_bytes", "approx_error_rel_l2", "useful_flops")  # fmt: skip
    return [tuple(row[name] for name in same) for row in table(folder)]


class TestCommand:
    def test_every_case_is_measured(self, finished: Finished) -> None:
        rows = table(finished.folder)
        assert len(rows) == 12
        assert {row["status"] for row in rows} == {"ok", "unsupported"}
        assert sum(row["status"] == "unsupported" for row in rows) == 2
        assert {row["inputs"] for row in rows} == {"file:some.safetensors"}

    def test_no_file_of_a_run_contains_the_machine_name_or_a_path(self, finished: Finished) -> None:
        stored = json.loads((finished.folder / "environment.json").read_text())
        published = [*texts(stored)]
        published += [cell for row in table(finished.folder) for cell in row.values()]
        assert stored["settings"]["OMP_NUM_THREADS"] == "1"
        for text in published:
            assert os.sep not in text
            assert "somebody-here" not in text
            assert "somewhere-here" not in text
            assert not os.uname().nodename or os.uname().nodename not in text.split()

    @LINUX
    @pytest.mark.parametrize("whom", ["the command alone", "the worker too"])
    def test_a_run_killed_at_any_moment_is_resumed_to_the_same_rows(
        self, finished: Finished, tmp_path: Path, whom: str
    ) -> None:
        folder = finished.again(tmp_path / "run")
        count, delay = random.randint(1, 9), random.uniform(0, 0.2)
        moment = f"killed {delay:.3f} s after result {count}"
        process = finished.start("--resume", folder)
        wait_for_results(folder, count, process)
        time.sleep(delay)
        whole = family(process.pid)
        for one in whole[:1] if whom == "the command alone" else whole:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()
        _, left = psutil.wait_procs(whole[1:], timeout=20)
        assert not left, "an orphaned worker would run during the next run"
        before = journal.read(folder, SweepWorkload).results
        process = finished.start("--resume", folder)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert outcome(folder) == outcome(finished.folder), moment
        results = [event for event in events(folder) if event["event"] == "result"]
        again = [event for event in results if event["row"]["repeated_because"]]
        assert {event["row"]["repeated_because"] for event in again} <= {run_loop.DISTURBED}, moment
        ids = [event["case_id"] for event in results if event not in again]
        assert len(ids) == len(set(ids)) == 12, moment
        after = journal.read(folder, SweepWorkload).results
        assert count <= len(before) < 12, moment
        kept = {case_id: row for case_id, row in before.items() if not row.disturbed}
        assert {case_id: after[case_id] for case_id in kept} == kept, moment

    @pytest.mark.parametrize("how", ["by the terminal", "politely"])
    def test_a_stopped_run_keeps_its_measured_rows(
        self, finished: Finished, tmp_path: Path, how: str
    ) -> None:
        folder = finished.again(tmp_path / "run")
        process = finished.start("--resume", folder)
        wait_for_results(folder, 2, process)
        if how == "politely":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C is also sent to the worker
        out, err = process.communicate(timeout=60)
        assert process.returncode == (143 if how == "politely" else 130)
        assert out == ""
        last = err.splitlines()[-1]
        assert last == f"stopped; continue with: python -m bench run --resume {folder}"
        assert "Traceback" not in err
        record = journal.read(folder, SweepWorkload)
        assert 2 <= len(record.results) < 12
        # The row that was being flushed is in the journal, and the next run adds it to the table.
        assert len(record.results) - 1 <= len(table(folder)) <= len(record.results)
        counted = {case_id for case_id, count in record.attempts.items() if count}
        assert counted <= set(record.results)

    def test_a_full_disk_ends_with_one_message(self, finished: Finished, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small file system cannot be mounted here")
        try:
            folder = finished.again(disk)
            process = finished.start("--resume", folder)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 2
            assert out == ""
            messages = [line for line in err.splitlines() if line.startswith("Error: ")]
            assert messages == [
                f"Error: cannot write to {disk}: No space left on device; measured rows are "
                f"kept, continue with --resume {disk}"
            ]
            assert "Traceback" not in err
            kept = journal.read(folder, SweepWorkload).results
            assert 0 < len(kept) < 12
            assert {row.status for row in kept.values()} <= {Status.OK, Status.UNSUPPORTED}
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_a_row_is_written_under_the_columns_of_its_file(tmp_path: Path) -> None:
    row = replace(good(cases.case(layer=3, causal=True)), tflops=0.25)
    sweep = Sweep("one", ({"seq_len": (row.case.seq_len,)},))
    workload = SweepWorkload(sweep, "cpu", {}, 0.001, 60.0)
    workload.__dict__["cases"] = [row.case]
    workload.write(tmp_path, {row.case.case_id: Entry(row)}, HEADER["environment"])
    (stored,) = table(tmp_path)
    for name in tuple(Measurement.columns()):
        value = row.case.attention.target if name == "target" else row.values[name]
        assert stored[name] == ("" if value is None else str(value)), name
    assert not list(tmp_path.glob("*.partial"))
