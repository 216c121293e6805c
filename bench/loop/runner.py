"""The loop of `python -m bench run`: measures each case in a worker process, writes it to the
journal, and writes the tables of results."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as CaseTimeout
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from bench.instruments import environment
from bench.loop import journal
from bench.loop.interrupts import NOTICED, delayed_interrupts
from bench.loop.progress import Progress
from bench.plan import forecast
from bench.plan.sweep import Sweep
from bench.schema.measurement import (
    COLUMNS,
    HEAD_COLUMNS,
    Case,
    HeadRow,
    Measurement,
    Raw,
    Status,
    without_lengths,
)
from bench.workloads import worker
from variants import REGISTRY
from variants.contract.added import ADDED
from variants.contract.registry import default_knob

ATTEMPTS = 2  # a case during which the whole run died is tried again once
REWRITE_SECONDS = 15.0
SET_UP_SECONDS = 300.0  # for describing the machine and measuring its limits
BASELINES = (
    3  # factor on the timeout of a case for the exact baselines, as one call measures several
)
KEEPS_WORKER = (Status.OK, Status.UNSUPPORTED, Status.SKIPPED)
Result = TypeVar("Result")


class RunError(Exception):
    """A run cannot start or continue. The message is one sentence; measured rows are kept."""


class WorkerDied(Exception):
    """The worker process ended during a call. The message is one sentence."""


class Worker:
    """A worker process that is reused until a call fails."""

    def __init__(self, log: Path, device: str, modules: Sequence[str] = ()) -> None:
        self._arguments = [str(log), device == "cuda", list(modules)]
        self._pool: ProcessPool | None = None
        self._exact_shape: tuple[Any, ...] | None = None
        self._hopeless: set[tuple[Any, ...]] = set()

    def call(self, function: Callable[..., Result], *arguments: Any, timeout: float) -> Result:
        """Call the function in the worker. Raises CaseTimeout, WorkerDied or its own exception."""
        if self._pool is not None and not self._pool.active:
            self.replace()  # it died since the last call
        try:
            with delayed_interrupts() as received:
                if self._pool is None:
                    self._pool = ProcessPool(
                        max_workers=1,
                        initializer=worker.start,
                        initargs=self._arguments,
                        context=multiprocessing.get_context("spawn"),
                    )
                future = self._pool.schedule(function, args=list(arguments), timeout=timeout)
                while not received and not future.done():
                    wait([future], timeout=NOTICED)
                if not received:
                    return future.result()
            raise KeyboardInterrupt  # the handler of the signal raised nothing
        except ProcessExpired as error:
            raise WorkerDied(_death(error.exitcode)) from error
        except BrokenProcessPool as error:
            raise WorkerDied("the worker process ended before it began") from error

    def knows_exact(self, case: Case, settings: worker.Settings, timeout: float) -> bool:
        """Measure the exact baselines of a case's shape, once in each process.

        Returns whether the worker has them. If measuring them fails, the cases of this shape are
        measured without them.
        """
        if case.shape != self._exact_shape and case.shape not in self._hopeless:
            try:
                self.call(worker.measure_exact, case, settings, timeout=timeout)
                self._exact_shape = case.shape
            except (CaseTimeout, WorkerDied):
                self._hopeless.add(case.shape)
                self.replace()
        return case.shape not in self._hopeless

    def replace(self) -> None:
        """End the process; the next call starts a new one."""
        self._exact_shape = None
        if self._pool is not None:
            with delayed_interrupts():
                self._pool.stop()
                self._pool.join()
            self._pool = None


def run(
    sweep: Sweep,
    folder: Path,
    *,
    device: str,
    files: Mapping[str, Path],
    seconds: float,
    timeout: float,
    modules: Sequence[str] = (),
    resume: bool = False,
) -> list[Measurement]:
    """Measure all cases of a sweep and write the results to `folder`.

    Args:
        sweep: the sweep.
        folder: folder of the run.
        device: cpu or cuda.
        files: paths of captures, by the NAME of `file:NAME` inputs.
        seconds: sampling time of a case.
        timeout: seconds after which a case is stopped.
        modules: names of modules that add implementations, which are imported already.
        resume: continue the run in `folder`.

    Returns:
        A row for each case, in planned order.

    Raises:
        RunError: the folder is in use, cannot be written, or holds another run.
    """
    cases = sweep.cases(device, files)
    try:
        if resume:
            record = journal.read(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            record = journal.Record({}, {}, {}, {})
            if journal.begun(folder):
                raise RunError(f"{folder} holds a run already; continue it with --resume {folder}")
        return _run(cases, sweep, folder, device, files, seconds, timeout, modules, record)
    except (CaseTimeout, WorkerDied) as error:  # in a case, these errors become rows
        late = isinstance(error, CaseTimeout)
        why = f"it took longer than {SET_UP_SECONDS:g} s" if late else str(error)
        raise RunError(f"could not describe the machine: {why}; see {folder}/worker.log") from error
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}{_kept(folder)}") from error


def _run(
    cases: Sequence[Case],
    sweep: Sweep,
    folder: Path,
    device: str,
    files: Mapping[str, Path],
    seconds: float,
    timeout: float,
    modules: Sequence[str],
    record: journal.Record[Measurement],
) -> list[Measurement]:
    process = Worker(folder / "worker.log", device, modules)
    book = journal.Journal(folder)
    results, heads = dict(record.results), dict(record.heads)
    progress = Progress([(case, _weight(case)) for case in cases])
    try:
        progress.say("describing the machine")
        present = process.call(worker.describe, device, timeout=SET_UP_SECONDS)
        if record.header:
            recorded = record.header["environment"]
            if found := environment.differences(recorded, present):
                raise RunError(
                    f"{folder} was measured on another machine or installation: {'; '.join(found)}"
                )
            limits = recorded["limits"]
            write_json(folder / "environment.json", recorded)
        else:
            progress.say("measuring the limits of the machine")
            dtypes = sorted({case.dtype for case in cases})
            limits = process.call(
                worker.measure_limits, device, dtypes, seconds, timeout=SET_UP_SECONDS
            )
            plan: dict[str, Any] = {
                "name": sweep.name,
                "groups": [dict(group) for group in sweep.groups],
                "timeout": timeout,
                "knobs": {name: default_knob(name) for name in sorted({c.variant for c in cases})},
            }
            if math.isfinite(sweep.slow_call):
                plan["slow_call"] = sweep.slow_call
            if sweep.energy:
                plan["energy"] = sweep.energy
            if modules:
                plan["modules"] = list(modules)
                plan["added"] = [f"{variant}/{name}" for variant, name in ADDED]
            present = {**present, "limits": limits, "sweep": plan}
            book.header(
                environment=present,
                device=device,
                files={name: str(path.resolve()) for name, path in files.items()},
            )
            write_json(folder / "environment.json", present)
        # Runs that were begun by older versions have no read bandwidth.
        settings = worker.Settings(
            files, limits["matmul_tflops"], seconds, limits.get("read_gb_per_s"), sweep.energy
        )
        written = time.monotonic()
        for case in cases:
            if case.case_id in results:
                progress.advance(case, results[case.case_id].status)
                continue
            progress.begin(case)
            try:
                row, raw = _one(
                    case, settings, process, book, record, results, timeout, sweep.slow_call
                )
                book.result(row, raw)
            except KeyboardInterrupt:
                book.interrupted(case)
                raise
            results[case.case_id], heads[case.case_id] = row, raw.heads
            if row.status not in KEEPS_WORKER or raw.spoiled:
                process.replace()
            progress.advance(case, row.status)
            if time.monotonic() - written > REWRITE_SECONDS:
                write_results(folder, cases, results, heads)
                written = time.monotonic()
    finally:
        # Also after an interrupt: results.csv has all rows measured so far.
        progress.close()
        process.replace()
        book.close()
        if results:
            write_results(folder, cases, results, heads)
    return [results[case.case_id] for case in cases]


def _one(
    case: Case,
    settings: worker.Settings,
    process: Worker,
    book: journal.Journal,
    record: journal.Record[Measurement],
    results: Mapping[str, Measurement],
    timeout: float,
    slow_call: float,
) -> tuple[Measurement, Raw]:
    if shorter := _failed_shorter(case, results):
        reason = f"{shorter.status} already at seq_len {shorter.seq_len}"
        return Measurement.of(case, Status.SKIPPED, reason), Raw()
    # Exact attention is always measured, as the baseline.
    exact = REGISTRY[case.variant].info.is_exact
    limit = settings.matmul_tflops.get(case.dtype)
    out_of_reach = forecast.exact_out_of_reach(case, limit, BASELINES * timeout)
    if exact:
        reason = out_of_reach
    else:
        reason = forecast.hopeless(case, results, timeout)
        reason = reason or forecast.slower_than_exact(case, results, slow_call)
    if reason:
        return Measurement.of(case, Status.SKIPPED, reason), Raw()
    if record.attempts.get(case.case_id, 0) >= ATTEMPTS:
        reason = f"the whole run died {ATTEMPTS} times during this case"
        return Measurement.of(case, Status.CRASHED, reason), Raw()
    book.started(case)
    knows = not out_of_reach and process.knows_exact(case, settings, BASELINES * timeout)
    try:
        return process.call(worker.measure, case, settings, knows, timeout=timeout)
    except CaseTimeout:
        return Measurement.of(case, Status.TIMEOUT, f"took longer than {timeout:g} s"), Raw()
    except WorkerDied as error:
        return Measurement.of(case, Status.CRASHED, str(error)), Raw()


def _death(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"the worker process ended with exit status {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"the worker process was ended by {name}{hint}"


def _failed_shorter(case: Case, results: Mapping[str, Measurement]) -> Measurement | None:
    """The row of the same case at a smaller length that ran out of memory or time, or None."""
    for row in results.values():
        if (
            row.status in (Status.OUT_OF_MEMORY, Status.TIMEOUT)
            and row.seq_len <= case.seq_len
            and row.key_len <= case.key_len
            and without_lengths(row.case) == without_lengths(case)
        ):
            return row
    return None


def _weight(case: Case) -> float:
    """Roughly the expected seconds of a case; only ratios matter, for the time left."""
    pairs = case.batch * case.heads * case.seq_len * case.key_len
    passes = 3.5 if case.direction == "forward_backward" else 1.0
    return 0.6 + passes * pairs / 4e8


def _kept(folder: Path) -> str:
    """The sentence on how to continue after a failure; empty if nothing was measured."""
    try:
        begun = journal.begun(folder)
    except OSError:
        begun = False
    return f"; measured rows are kept, continue with --resume {folder}" if begun else ""


def write_results(
    folder: Path,
    cases: Sequence[Case],
    results: Mapping[str, Measurement],
    heads: Mapping[str, Sequence[HeadRow]],
) -> None:
    """Write results.csv, one row for each case, and heads.csv, one row for each head of the cases
    with status ok; both in planned order."""
    known = [row for case in cases if (row := results.get(case.case_id))]
    write_table(folder / "results.csv", COLUMNS, map(dataclasses.asdict, known))
    of_heads = (
        dataclasses.asdict(row.case) | dataclasses.asdict(head)
        for row in known
        for head in heads.get(row.case.case_id, ())
    )
    write_table(folder / "heads.csv", HEAD_COLUMNS, of_heads)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically: it is replaced only when all rows are written."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    os.replace(partial, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object to a JSON file."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
