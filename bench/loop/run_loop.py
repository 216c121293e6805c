"""The loop of every run: sweeps, runs with a model, trainings.

It gives cases to the workers of an executor, writes each result to the journal, and derives the
tables from the results. The loop can be killed at any time: a resumed run continues with the
journal.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any, Generic

from bench.loop.case_queue import CaseQueue
from bench.loop.executor import (
    CallTimeout,
    Executor,
    ExecutorError,
    WorkerDied,
    WorkerKilled,
    WorkerLost,
    WorkerOutOfMemory,
)
from bench.loop.interrupts import NOTICED, delayed_interrupts, ignored_interrupts
from bench.loop.journal import Journal, Recorded, begun
from bench.loop.machines import END, Machines, RunError
from bench.loop.progress import Progress, in_words
from bench.loop.seat import Seat
from bench.loop.workload import CaseT, Entry, Expected, RowT, Workload
from bench.schema.measurement import Raw
from bench.schema.outcome import Status
from bench.schema.validation import name_of
from bench.workloads.failure import failure

ATTEMPTS = 2  # a case during which the whole run died is tried again once
REWRITE_SECONDS = 15.0
KEEPS_WORKER = (Status.OK, Status.UNSUPPORTED, Status.SKIPPED)
LOSSES = 3  # machines that may be lost during one case
DISTURBED, LOST = "other load disturbed it", "its machine was lost"
KILLED = "its worker process was killed"


def run(
    workload: Workload[CaseT, RowT],
    folder: Path,
    executor: Executor,
    recorded: Recorded[RowT] | None = None,
    expected: Expected | None = None,
) -> list[RowT]:
    """Measure all cases of a workload that have no row yet, and write the results to `folder`.

    Args:
        workload: the cases.
        folder: folder of the run.
        executor: the workers; it is closed at the end.
        recorded: the journal of the run that is resumed.
        expected: what the cases without a row are predicted to take. It is shown at the start, and
            recorded beside the time that they take.

    Returns:
        A row for each case, in planned order.

    Raises:
        RunError: the folder is in use, cannot be written or holds another run; or no machine can
            measure.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if recorded is None and begun(folder):
            raise RunError(f"{folder} holds a run already; continue it with --resume {folder}")
        loop = _Loop(workload, folder, executor, recorded or Recorded(), expected)
        return loop.run()
    except ExecutorError as error:
        raise RunError(f"{error}{_kept(folder)}") from error
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}{_kept(folder)}") from error
    finally:
        with ignored_interrupts():
            executor.close()


def _kept(folder: Path) -> str:
    """The sentence on how to continue after a failure; empty if nothing was measured."""
    try:
        has_rows = begun(folder)
    except OSError:
        has_rows = False
    return f"; measured rows are kept, continue with --resume {folder}" if has_rows else ""


class _Loop(Generic[CaseT, RowT]):
    def __init__(
        self,
        workload: Workload[CaseT, RowT],
        folder: Path,
        executor: Executor,
        recorded: Recorded[RowT],
        expected: Expected | None,
    ) -> None:
        self._expected = expected
        self._took = {"cases": 0.0, "other": 0.0}  # seconds of all workers
        self._said = ""
        self._workload, self._folder, self._executor = workload, folder, executor
        self._entries = dict(recorded.entries)
        self._rows = recorded.results
        self._attempts, self._starts = recorded.attempts.copy(), recorded.starts.copy()
        self._losses: Counter[str] = Counter()  # of machines, by the id of the case
        self._repeated: dict[str, str] = {}  # why a case is measured again, by its id
        others = recorded.entries.keys() - {case.case_id for case in workload.cases}
        if others:
            raise RunError(
                f"{name_of(folder)} holds {len(others)} results of cases that its sweep does not "
                "have: its journal is damaged or of another version"
            )
        self._journal = Journal(folder)
        self._machines = Machines(
            workload, folder, self._journal, recorded, may_join=executor.several_machines
        )
        cases = workload.cases
        # A run that was killed has not measured its disturbed rows again.
        for case_id, row in self._rows.items():
            if row.disturbed and DISTURBED not in row.repeated_because:
                self._repeated[case_id] = DISTURBED
        left = [case for case in cases if case.case_id not in self._entries]
        again = [case for case in cases if self._repeated.get(case.case_id) == DISTURBED]
        self._queue = CaseQueue(workload, [*left, *again])
        known = expected.of_cases if expected else {}
        weights = [(case, known.get(case.case_id) or workload.weight(case)) for case in cases]
        self._progress = Progress(weights)
        self._seats: dict[int, Seat[CaseT]] = {}
        self._written = time.monotonic()

    def run(self) -> list[RowT]:
        try:
            if self._expected is not None:
                self._progress.tell(self._expected.said)
            for case in self._workload.cases:
                if case.case_id in self._entries:
                    self._progress.advance(case, self._entries[case.case_id].row.status)
            while self._give_work():
                self._wait()
            self._check_noise()
            self._record_duration()
        except KeyboardInterrupt:
            for seat in self._seats.values():
                if seat.case is not None:
                    self._journal.interrupted(seat.case)
            raise
        finally:
            with ignored_interrupts():
                self._write()
                self._progress.close(self._said)
                self._journal.close()
        return [self._entries[case.case_id].row for case in self._workload.cases]

    # Work for free workers.

    def _give_work(self) -> bool:
        """Start work on free workers. Returns whether there is work left."""
        if not self._queue and not any(seat.busy for seat in self._seats.values()):
            return False
        self._seat_workers()
        refused = [seat.refused for seat in self._seats.values()]
        if refused and all(refused):
            raise RunError(refused[-1])
        for seat in self._seats.values():
            while not seat.busy and self._start(seat):
                pass
        return True

    def _seat_workers(self) -> None:
        """Seats for new workers; those of lost ones are removed when their call fails."""
        present = {id(worker): worker for worker in self._executor.workers()}
        for key, worker in present.items():
            if key not in self._seats:
                self._seats[key] = Seat(worker)
        for key in [k for k, seat in self._seats.items() if k not in present and not seat.busy]:
            del self._seats[key]

    def _start(self, seat: Seat[CaseT]) -> bool:
        """Start the next step of a free worker. Returns False if it has nothing to do."""
        if seat.refused:
            return False
        if seat.machine is None:
            if self._machines.busy:
                return False  # one machine after another is described
            self._progress.say("describing the machine")
            seat.begin(self._machines.set_up(seat))
            return True
        others = [s.group for s in self._seats.values() if s is not seat and s.busy]
        case = self._queue.take(seat.group, others)
        if case is None:
            return False
        if row := self._without_measuring(case, seat.machine):
            self._finish(seat, case, row, Raw())
            return True
        if self._repeated.get(case.case_id) == DISTURBED and not seat.repeats:
            seat.repeats = True
            seat.replace_process()  # with baselines that were disturbed
            self._progress.say("measuring rows again that other load disturbed")
        self._progress.begin(case)
        seat.case = case  # an interrupt from here on does not count against the case
        self._journal.started(case)
        self._attempts[case.case_id] += 1
        self._starts[case.case_id] += 1
        seat.begin(
            self._workload.measure(case, seat.machine, seat.memory),
            case,
            self._workload.group(case),
        )
        return True

    def _without_measuring(self, case: CaseT, machine: dict[str, Any]) -> RowT | None:
        """The row of a case that is not measured, or None."""
        of_kind = self._machines.of_kind(machine, self._rows)
        if reason := self._workload.skipped(case, of_kind, machine):
            return self._workload.failed(case, Status.SKIPPED, reason)
        if self._attempts[case.case_id] >= ATTEMPTS and case.case_id not in self._repeated:
            reason = f"the whole run died {ATTEMPTS} times during this case"
            return self._workload.failed(case, Status.CRASHED, reason)
        return None

    # Results of running work.

    def _wait(self) -> None:
        """Wait for a moment, and handle the calls that have ended."""
        running = {seat.future: seat for seat in self._seats.values() if seat.future is not None}
        if not running:
            time.sleep(NOTICED)  # until a machine joins
            return
        with delayed_interrupts():
            done, _ = wait(running, NOTICED, FIRST_COMPLETED)
        for future in done:
            seat = running[future]
            kind = "other" if seat.case is None else "cases"
            self._advance(seat)
            if not seat.busy:
                self._took[kind] += seat.seconds

    def _advance(self, seat: Seat[CaseT]) -> None:
        case = seat.case
        try:
            found = seat.go_on()
        except WorkerLost as error:
            self._lose(seat, str(error))
        except Exception as error:
            if case is None:
                self._refuse(seat, error)
            elif isinstance(error, WorkerKilled) and case.case_id not in self._repeated:
                self._measure_again(seat, case, KILLED)
            else:
                self._finish(seat, case, self._workload.failed(case, *_ending(error, seat)), Raw())
        else:
            if found is None:
                return
            if case is None:
                self._machines.busy = False
                seat.machine = found
            else:
                self._finish(seat, case, *found)

    def _finish(self, seat: Seat[CaseT], case: CaseT, row: RowT, raw: Raw) -> None:
        """Keep the row of a case, and replace the process that a failure may have damaged."""
        assert seat.machine is not None
        case_id = case.case_id
        before = self._entries.get(case_id)
        if before is not None and before.row.status is Status.OK is not row.status:
            # The first row of a case that is measured again is better than none.
            row, raw = before.row, Raw(details=before.details, spoiled=True)
        row = dataclasses.replace(
            row,
            host=seat.machine.get("host", ""),
            device_id=seat.machine["hardware"].get("gpu_id") or "",
            driver=(seat.machine.get("gpu_sensors") or {}).get("driver") or "",
            attempts=max(1, self._starts[case_id]),
            repeated_because=self._repeated.get(case_id, ""),
        )
        self._journal.result(row, raw, seconds := seat.seconds if seat.case is not None else 0.0)
        seat.case = None
        self._entries[case_id] = Entry(row, raw.details, seconds, raw.shared_seconds)
        self._rows[case_id] = row
        if row.status not in KEEPS_WORKER or raw.spoiled:
            seat.replace_process()
        if row.disturbed and self._repeated.get(case_id) != DISTURBED:
            self._repeated[case_id] = DISTURBED
            self._queue.put_back(case, first=False)
        else:
            self._queue.done(case)
        if before is None:
            self._progress.advance(case, row.status)
        if time.monotonic() - self._written > REWRITE_SECONDS:
            self._write()

    def _lose(self, seat: Seat[CaseT], why: str) -> None:
        """The machine of a worker is gone: another one measures the case."""
        self._progress.say(why)
        self._seats = {key: other for key, other in self._seats.items() if other is not seat}
        if seat.case is None:
            self._machines.busy = False
            return
        case_id = seat.case.case_id
        self._losses[case_id] += 1
        if self._losses[case_id] == LOSSES:
            row = self._workload.failed(seat.case, Status.CRASHED, f"{LOST} {LOSSES} times")
            self._finish(seat, seat.case, row, Raw())
            return
        self._measure_again(seat, seat.case, LOST)

    def _measure_again(self, seat: Seat[CaseT], case: CaseT, why: str) -> None:
        """A case is measured next, as its failure says little about it."""
        self._journal.interrupted(case)
        seat.case = None
        self._repeated[case.case_id] = why
        self._queue.put_back(case, first=True)

    def _refuse(self, seat: Seat[CaseT], error: Exception) -> None:
        """A machine cannot be used. The run ends if it has no other one."""
        self._machines.busy = False
        if isinstance(error, CallTimeout | WorkerDied):
            error = RunError(
                f"could not prepare {seat.worker.name}: {_ending(error, seat)[1]}; "
                f"see {self._folder}/worker.log"
            )
        if len(self._seats) == 1 or not isinstance(error, RunError):
            raise error
        self._progress.say(str(error))
        seat.refused = str(error)

    def _check_noise(self) -> None:
        """Check the noise of each machine that has measured, once more."""
        seats = {
            seat.machine.get("host", ""): (seat, seat.machine)
            for seat in self._seats.values()
            if seat.machine is not None and seat.measured
        }
        if not self._workload.check_seconds:
            return
        for seat, machine in seats.values():
            seat.begin(self._machines.check_noise(machine, END))
        while any(seat.busy for seat, _ in seats.values()):
            self._wait()

    def _record_duration(self) -> None:
        """Record how long this command took, and how far its prediction was off."""
        took, expected = sum(self._took.values()), self._expected
        predicted = None if expected is None else expected.seconds
        if not took:
            return  # a resumed run without work
        self._machines.took(
            {
                "predicted_seconds": predicted,
                "took_seconds": round(took, 2),
                "other_seconds": round(self._took["other"], 2),
            }
        )
        if predicted:
            of_all = " (all workers together)" if len(self._seats) > 1 else ""
            self._said = (
                f"predicted {in_words(predicted)}, took {in_words(took)}{of_all}: "
                f"{took / predicted:.2g} times"
            )

    def _write(self) -> None:
        if self._entries:
            self._workload.write(self._folder, self._entries, self._machines.environment)
        self._written = time.monotonic()


def _ending(error: Exception, seat: Seat[Any]) -> tuple[Status, str]:
    """The status and the reason of a case whose call raised an exception."""
    if isinstance(error, CallTimeout):
        return Status.TIMEOUT, f"took longer than {seat.timeout:g} s"
    if isinstance(error, WorkerOutOfMemory):
        return Status.OUT_OF_MEMORY, str(error)
    if isinstance(error, WorkerDied):
        return Status.CRASHED, str(error)
    return failure(error, {})
