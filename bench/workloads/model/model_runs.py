"""The loop of `python -m bench model`: measures each case in a worker process that keeps the model
loaded, writes it to the journal, and writes model.csv."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import TimeoutError as CaseTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.instruments import environment
from bench.loop import journal
from bench.loop.progress import Progress
from bench.loop.runner import (
    ATTEMPTS,
    KEEPS_WORKER,
    SET_UP_SECONDS,
    Worker,
    WorkerDied,
    write_json,
    write_table,
)
from bench.schema.measurement import Raw, Status
from bench.schema.model_row import COLUMNS, FILE, ModelCase, ModelRow
from bench.workloads import worker
from bench.workloads.model import measure
from bench.workloads.model.plan import Plan, Setup
from bench.workloads.model.text import ModelError, read_text

COMMAND = "model"
TIMEOUT = 1800.0  # seconds; a pass of a small model over 8192 tokens takes one or two minutes
Record = journal.Record[ModelRow]


@dataclass(frozen=True)
class Run:
    """A plan, its timeout in seconds, and the journalled record (empty for a new run)."""

    plan: Plan
    timeout: float
    record: Record


def begin(plan: Plan, folder: Path, timeout: float) -> Run:
    """A new run in `folder`; ModelError if the folder holds a run already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        begun = journal.begun(folder)
    except OSError as error:
        raise ModelError(f"cannot write to {folder}: {error.strerror}") from error
    if begun:
        raise ModelError(f"{folder} holds a run already; continue it with --resume {folder}")
    return Run(plan, timeout, journal.Record({}, {}, {}, {}))


def resume(folder: Path) -> Run:
    """The run that `folder` holds; ModelError if the text file has changed since."""
    record = journal.read_rows(folder, ModelRow, COMMAND)
    header = record.header
    setup = Setup(**{**header["setup"], "text": Path(header["setup"]["text"])})
    cases = tuple(ModelCase(**fields) for fields in header["cases"])
    if (now := read_text(setup.text).sha256) != cases[0].text_sha256:
        raise ModelError(
            f"{setup.text} has changed since {folder} was started: expected the SHA-256 "
            f"{cases[0].text_sha256}, got {now}"
        )
    return Run(Plan(setup, cases, header["environment"]["model"]), header["timeout"], record)


def run(asked: Run, folder: Path) -> list[ModelRow]:
    """Measure the cases that have no row yet. Returns a row for each case, in planned order.

    Raises:
        ModelError: the folder cannot be written, or a resumed run was started on another machine
            or installation.
        CaptureError: the model cannot be loaded.
    """
    try:
        return _run(asked, folder)
    # Raised while the model is opened; the same errors in a case become rows.
    except (CaseTimeout, WorkerDied) as error:
        late = isinstance(error, CaseTimeout)
        why = "it took too long" if late else str(error)
        raise ModelError(f"could not load the model: {why}; see {folder}/worker.log") from error
    except OSError as error:
        raise ModelError(f"cannot write to {folder}: {error.strerror}") from error


def _run(asked: Run, folder: Path) -> list[ModelRow]:
    plan, results = asked.plan, dict(asked.record.results)
    process = Worker(folder / "worker.log", plan.setup.device)
    book = journal.Journal(folder)
    progress = Progress([(case, _weight(case)) for case in plan.cases])
    try:
        progress.say("loading the model")
        _describe(asked, folder, process, book)
        for case in plan.cases:
            if case.case_id not in results:
                progress.begin(case)
                try:
                    row = _one(case, asked, process, book)
                    book.result(row, Raw())
                except KeyboardInterrupt:
                    book.interrupted(case)
                    raise
                results[case.case_id] = row
                if row.status not in KEEPS_WORKER:
                    process.replace()
                _write(folder, plan, results)
            progress.advance(case, results[case.case_id].status)
    finally:
        progress.close()
        process.replace()
        book.close()
    _write(folder, plan, results)
    return [results[case.case_id] for case in plan.cases]


def _describe(asked: Run, folder: Path, process: Worker, book: journal.Journal) -> None:
    """Write the environment of a new run, or check that of a resumed one.

    The model is loaded first: if that fails, nothing is written.
    """
    setup = asked.plan.setup
    parameters = process.call(measure.open_model, setup, timeout=asked.timeout)
    present = process.call(worker.describe, setup.device, timeout=SET_UP_SECONDS)
    if header := asked.record.header:
        recorded = header["environment"]
        found = environment.differences(recorded, present)
        if recorded["model"]["parameters"] != parameters:
            found.append(f"the model had {recorded['model']['parameters']} parameters")
        if found:
            raise ModelError(
                f"{folder} was measured on another machine or installation: {'; '.join(found)}"
            )
        present = recorded
    else:
        present = {**present, "model": {**asked.plan.facts, "parameters": parameters}}
        book.header(
            command=COMMAND,
            environment=present,
            setup={**dataclasses.asdict(setup), "text": str(setup.text.resolve())},
            cases=[dataclasses.asdict(case) for case in asked.plan.cases],
            timeout=asked.timeout,
        )
    write_json(folder / "environment.json", present)


def _one(case: ModelCase, asked: Run, process: Worker, book: journal.Journal) -> ModelRow:
    if asked.record.attempts.get(case.case_id, 0) >= ATTEMPTS:
        reason = f"the whole run died {ATTEMPTS} times during this case"
        return ModelRow.of(case, Status.CRASHED, reason)
    book.started(case)
    try:
        return process.call(measure.measure, case, asked.plan.setup, timeout=asked.timeout)
    except CaseTimeout:
        return ModelRow.of(case, Status.TIMEOUT, f"took longer than {asked.timeout:g} s")
    except WorkerDied as error:
        return ModelRow.of(case, Status.CRASHED, str(error))


def _weight(case: ModelCase) -> float:
    """Roughly proportional to the expected time of a case; used to estimate the time left."""
    return case.seq_len * (1 + case.seq_len / 4096)


def _write(folder: Path, plan: Plan, results: Mapping[str, ModelRow]) -> None:
    found: list[dict[str, Any]] = [
        dataclasses.asdict(results[case.case_id]) for case in plan.cases if case.case_id in results
    ]
    write_table(folder / FILE, COLUMNS, found)
