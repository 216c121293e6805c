"""Local workers: each way in which a process can fail ends one call with one typed error, and no
process outlives its worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.loop import local_executor
from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied
from bench.loop.local_executor import LocalExecutor, LocalWorker, death
from bench.loop.serving import CallError
from bench.loop.supervisor import KEPT, BoundedLog
from tests import cases, worker_faults

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs settings of Linux")
NOTHING = WorkerCall(worker_faults.nothing)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[LocalWorker]:
    worker = LocalWorker("worker 1", NOTHING, tmp_path / "worker.log")
    yield worker
    worker.replace()


def result(worker: LocalWorker, function: Any, *arguments: Any, timeout: float = 60.0) -> Any:
    return worker.submit(WorkerCall(function, arguments, timeout)).result(timeout + 60)


def running(pids: list[int]) -> list[int]:
    """The processes that have not ended."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def ended(pids: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while running(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(pids)


class TestCalls:
    def test_one_process_serves_all_calls(self, worker: LocalWorker) -> None:
        pids = {result(worker, os.getpid) for _ in range(3)}
        with pytest.raises(LookupError, match="there is none"):
            result(worker, worker_faults.raise_error, "fine")
        pids.add(result(worker, os.getpid))
        assert len(pids) == 1
        assert pids != {os.getpid()}

    def test_calls_of_two_workers_run_at_the_same_time(self) -> None:
        executor = LocalExecutor(NOTHING, workers=2)
        try:
            first, second = executor.workers()
            assert (first.name, second.name) == ("worker 1", "worker 2")
            assert result(first, os.getpid) != result(second, os.getpid)
            waits = first.submit(WorkerCall(time.sleep, (600,)))
            assert result(second, abs, -3) == 3
            assert not waits.done()
        finally:
            executor.close()
        assert isinstance(waits.exception(1), WorkerDied)

    @pytest.mark.parametrize("size", [0, 70_000, 50_000_000])
    def test_a_result_of_any_size_arrives_whole(self, worker: LocalWorker, size: int) -> None:
        assert result(worker, worker_faults.large, size) == bytes(size)

    def test_the_time_of_a_call_does_not_include_the_start(self, tmp_path: Path) -> None:
        worker = LocalWorker("slow", WorkerCall(time.sleep, (1.5,)))
        try:
            assert result(worker, abs, -3, timeout=0.5) == 3
        finally:
            worker.replace()

    def test_output_goes_to_the_log(
        self, worker: LocalWorker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        result(worker, cases.shout, "heard")
        worker.replace()
        assert (tmp_path / "worker.log").read_text().count("heard") == 2
        assert "heard" not in "".join(capfd.readouterr())


class TestErrorsOfCalls:
    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("wordless", "^Wordless$"),
            ("abroad", "^Abroad: one and two$"),
            ("local", "^Local: of no module$"),
            ("with a lock", "^LookupError: <unlocked _thread.lock"),
            ("SystemExit", "^SystemExit: 0$"),
            ("KeyboardInterrupt", "^KeyboardInterrupt"),
            ("GeneratorExit", "^GeneratorExit"),
            ("BaseException", "^BaseException: base$"),
            ("TimeoutError", "^TimeoutError: own$"),
        ],
    )
    def test_an_exception_that_cannot_be_raised_here_is_replaced_by_its_name_and_text(
        self, worker: LocalWorker, kind: str, text: str
    ) -> None:
        with pytest.raises(CallError, match=text):
            result(worker, worker_faults.raise_error, kind)
        assert result(worker, abs, -3) == 3

    def test_a_result_that_cannot_be_sent_is_an_error(self, worker: LocalWorker) -> None:
        with pytest.raises(TypeError, match="pickle"):
            result(worker, worker_faults.unpicklable)

    def test_a_result_that_cannot_be_read_is_an_error(self, worker: LocalWorker) -> None:
        with pytest.raises(WorkerDied, match="the answer of the worker process cannot be read"):
            result(worker, worker_faults.unreadable)


class TestDeaths:
    @pytest.mark.parametrize(
        ("function", "arguments", "sentence"),
        [
            (os._exit, (0,), "the worker process ended with exit status 0"),
            (os._exit, (3,), "the worker process ended with exit status 3"),
            (worker_faults.exit_from_c, (0,), "the worker process ended with exit status 0"),
            (worker_faults.overflow_the_stack, (), "the worker process was ended by SIGSEGV"),
            (os.abort, (), "the worker process was ended by SIGABRT"),
            (worker_faults.close_descriptors, (), "the worker process ended with exit status 1"),
            (
                worker_faults.close_and_hang,
                (),
                "the worker process closed its connection to the run",
            ),
        ],
    )
    def test_a_process_that_ends_is_noticed_at_once(
        self,
        worker: LocalWorker,
        function: Any,
        arguments: tuple[Any, ...],
        sentence: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(local_executor, "CLOSING", 1.0)
        result(worker, abs, -3)
        started = time.monotonic()
        with pytest.raises(WorkerDied) as caught:
            result(worker, function, *arguments, timeout=300)
        assert str(caught.value) == sentence
        assert time.monotonic() - started < 30
        assert result(worker, abs, -3) == 3

    @pytest.mark.parametrize(
        "function",
        [worker_faults.stop_itself, worker_faults.hold_the_interpreter, signal.pause],
    )
    def test_a_process_that_hangs_is_stopped_after_the_time_of_the_call(
        self, worker: LocalWorker, function: Any
    ) -> None:
        pid = result(worker, os.getpid)
        started = time.monotonic()
        with pytest.raises(CallTimeout, match=r"took longer than 0\.5 s"):
            result(worker, function, timeout=0.5)
        assert 0.5 <= time.monotonic() - started < 10
        assert ended([pid], 0)

    def test_a_process_that_dies_between_two_calls_is_replaced(self, worker: LocalWorker) -> None:
        first = result(worker, os.getpid)
        os.kill(first, signal.SIGKILL)
        assert ended([first])
        time.sleep(0.5)
        assert result(worker, os.getpid) != first

    def test_closed_standard_streams_end_nothing(self, worker: LocalWorker) -> None:
        first = result(worker, os.getpid)
        result(worker, worker_faults.close_descriptors, 0, 1, 2)
        assert result(worker, os.getpid) == first

    @pytest.mark.parametrize(
        ("start", "sentence"),
        [
            (
                WorkerCall(worker_faults.start_fails, ("no memory for the worker",)),
                "the worker process ended before it began: MemoryError: no memory for the worker",
            ),
            (
                WorkerCall(worker_faults.start_ends, (0,)),
                "the worker process ended before it began; the worker process ended with exit "
                "status 0",
            ),
            (
                WorkerCall(time.sleep, (600,), timeout=0.5),
                "the worker process did not begin within 0.5 s",
            ),
        ],
    )
    def test_the_reason_of_a_failed_start_is_in_the_message(
        self, start: WorkerCall, sentence: str
    ) -> None:
        worker = LocalWorker("worker 1", start)
        try:
            with pytest.raises(WorkerDied) as caught:
                result(worker, abs, -3)
            assert str(caught.value) == sentence
        finally:
            worker.replace()

    @LINUX
    def test_the_worker_ends_with_its_supervisor(self, worker: LocalWorker) -> None:
        pid, parent = result(worker, os.getpid), result(worker, os.getppid)
        assert parent != os.getpid()
        future = worker.submit(WorkerCall(time.sleep, (600,)))
        os.kill(parent, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="the process that supervises the worker was ended"):
            future.result(30)
        assert ended([pid])
        assert result(worker, abs, -3) == 3

    @pytest.mark.parametrize(
        ("status", "sentence"),
        [
            (1, "the worker process ended with exit status 1"),
            (None, "the worker process ended with exit status None"),
            (-signal.SIGSEGV, "the worker process was ended by SIGSEGV"),
            (-40, "the worker process was ended by signal 40"),
            (
                -signal.SIGKILL,
                "the worker process was ended by SIGKILL",
            ),
        ],
    )
    def test_the_reason_describes_how_the_worker_died(
        self, status: int | None, sentence: str
    ) -> None:
        assert death(status) == sentence


PARENT = """
import os, sys, time
from pathlib import Path
from bench.loop.executor import WorkerCall
from bench.loop.local_executor import LocalExecutor
from tests import worker_faults

if __name__ == "__main__":
    worker, = LocalExecutor(WorkerCall(worker_faults.nothing)).workers()
    left = worker.submit(WorkerCall(worker_faults.leave_processes)).result()
    pids = [worker.submit(WorkerCall(name)).result() for name in (os.getpid, os.getppid)]
    print(*pids, *left, flush=True)
    worker.submit(WorkerCall(HANG))
    time.sleep(600)
"""


@LINUX
class TestNothingIsLeft:
    def test_all_processes_of_a_worker_end_with_it(self, worker: LocalWorker) -> None:
        pids = [result(worker, os.getpid), *result(worker, worker_faults.leave_processes)]
        assert len(running(pids)) == 5
        worker.replace()
        assert not running(pids)

    @pytest.mark.parametrize("then", ["die", "hang"])
    def test_all_processes_of_a_worker_that_fails_end(
        self, worker: LocalWorker, tmp_path: Path, then: str
    ) -> None:
        with pytest.raises((WorkerDied, CallTimeout)):
            result(worker, worker_faults.leave_processes_and, then, timeout=5.0)
        worker.replace()
        words = (tmp_path / "worker.log").read_text().split()
        pids = [int(word) for word in words[words.index("left") + 1 :][:4]]
        assert len(pids) == 4
        assert not running(pids)

    def test_a_thread_does_not_delay_the_end(self, worker: LocalWorker) -> None:
        result(worker, worker_faults.leave_a_thread)
        started = time.monotonic()
        worker.replace()
        assert time.monotonic() - started < 5

    @pytest.mark.parametrize("hang", ["time.sleep, (600,)", "worker_faults.hold_the_interpreter"])
    def test_all_processes_end_if_the_run_is_killed(self, tmp_path: Path, hang: str) -> None:
        """Also if the worker holds the interpreter lock, so that none of its threads runs."""
        script = tmp_path / "parent.py"
        script.write_text(PARENT.replace("HANG", hang))
        with subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            pids = [int(word) for word in process.stdout.readline().split()]
            assert len(running(pids)) == 6
            time.sleep(0.3)  # until the last call runs
            process.kill()
        assert ended(pids, 5)


class TestLog:
    def test_a_worker_that_prints_without_end_fills_no_disk(
        self, worker: LocalWorker, tmp_path: Path
    ) -> None:
        with pytest.raises(CallTimeout):
            result(worker, worker_faults.print_without_end, timeout=2.0)
        worker.replace()
        content = (tmp_path / "worker.log").read_bytes()
        assert 2 * KEPT < len(content) < 2 * KEPT + 200
        assert b"bytes of output are left out]" in content

    @pytest.mark.parametrize("pieces", [1, 3, 7])
    @pytest.mark.parametrize("size", [0, 5, 10, 11, 19, 20, 21, 1000])
    def test_the_first_and_the_last_bytes_are_kept(
        self, tmp_path: Path, size: int, pieces: int
    ) -> None:
        output = bytes(33 + number % 90 for number in range(size))
        log = BoundedLog(tmp_path / "log", kept=10)
        for begin in range(0, size, pieces):
            log.write(output[begin : begin + pieces])
        log.end()
        written = (tmp_path / "log").read_bytes() if size else b""
        if size <= 20:
            assert written == output
        else:
            left_out = b"\n[%d bytes of output are left out]\n" % (size - 20)
            assert written == output[:10] + left_out + output[-10:]
