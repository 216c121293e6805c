"""Runs trainings in parallel, one process for each core; writes training.csv and curves.csv."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from pebble import ProcessExpired, ProcessPool

from bench.loop.interrupts import NOTICED, delayed_interrupts
from bench.loop.progress import Progress
from bench.schema.measurement import Status, attention_columns
from bench.workloads.training.fit import Point, Trained, fit
from bench.workloads.training.tasks import TASKS
from variants import Attention, UnsupportedError

LEARNED = 0.9  # smallest accuracy with which a task counts as learned
COLUMNS = (
    *("variant", "implementation", "hyperparameters", "causal", "task", "seed", "device"),
    *("seq_len", "steps", "status", "reason", "learned", "accuracy", "chance", "in_sight"),
    *("accuracy_in_sight", "loss_start", "loss_end", "steps_taken", "seconds", "steps_per_s"),
)
POINT_COLUMNS = ("variant", "hyperparameters", "task", "seed", "step", "loss", "accuracy")


class TrainingError(Exception):
    """A run of trainings cannot start or continue. The message is one sentence."""


@dataclass(frozen=True)
class Training:
    """The settings of one training: one attention, one task, one seed."""

    attention: Attention
    task: str
    seed: int
    seq_len: int
    steps: int
    device: str

    @property
    def label(self) -> str:
        return f"{self.attention.info.name} {self.task} seed={self.seed}"

    def row(self, status: Status, reason: str = "", seen: Trained | None = None) -> dict[str, Any]:
        """The row of training.csv; columns without a result are empty."""
        found = dict.fromkeys(COLUMNS, "") | {
            **attention_columns(self.attention),
            "causal": self.attention.info.causal_choices[-1],
            "task": self.task,
            "seed": self.seed,
            "device": self.device,
            "seq_len": self.seq_len,
            "steps": self.steps,
            "status": status,
            "reason": reason,
        }
        if seen is not None:
            known = {name: value for name, value in vars(seen).items() if name in COLUMNS}
            found |= {name: round(value, 6) for name, value in known.items() if value is not None}
            found |= {
                "learned": learned(seen),
                "steps_per_s": round(seen.steps_taken / seen.seconds, 1),
            }
        return found


def learned(seen: Trained) -> str:
    """`yes`; `in sight` if the accuracy is high only on answers that the patterns can reach; or
    `no`."""
    if seen.accuracy >= LEARNED:
        return "yes"
    return "in sight" if (seen.accuracy_in_sight or 0.0) >= LEARNED else "no"


def run(trainings: Sequence[Training], folder: Path) -> list[Mapping[str, Any]]:
    """Run all trainings. Returns a row for each, which is also written as soon as it is complete.

    On a CPU each training uses one thread, so its numbers depend only on the seed. On a GPU they
    run one after another. A failed training has a row with a status and a reason.

    Raises:
        TrainingError: the folder cannot be written or holds a run already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Mode "x": existing files are not overwritten.
        with (
            (folder / "training.csv").open("x", newline="", encoding="utf-8") as rows,
            (folder / "curves.csv").open("x", newline="", encoding="utf-8") as points,
        ):
            return _run(trainings, _table(rows, COLUMNS), _table(points, POINT_COLUMNS))
    except FileExistsError as error:
        raise TrainingError(f"{folder} holds trainings already; give another --out") from error
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error.strerror}") from error


def _run(trainings: Sequence[Training], rows: CsvFile, points: CsvFile) -> list[Mapping[str, Any]]:
    on_cpu = all(training.device == "cpu" for training in trainings)
    pool = ProcessPool(
        max_workers=min(len(trainings), os.cpu_count() or 1) if on_cpu else 1,
        initializer=_start,
        context=multiprocessing.get_context("spawn"),
    )
    progress = Progress([(training, 1.0) for training in trainings])
    found: list[Mapping[str, Any]] = []
    try:
        progress.begin(trainings[0])
        with delayed_interrupts():
            asked: dict[Future[Any], Training] = {
                pool.schedule(_train, args=[one]): one for one in trainings
            }
        for future in _as_completed(asked):
            training = asked[future]
            try:
                row, curve = future.result()
            except (ProcessExpired, BrokenProcessPool) as error:
                row, curve = training.row(Status.CRASHED, f"the process ended: {error}"), ()
            rows.write(row)
            for point in curve:
                points.write({**row, **vars(point)})
            found.append(row)
            progress.advance(training, row["status"])
            progress.say(training.label)
    finally:
        progress.close()
        with delayed_interrupts():
            pool.stop()
            pool.join()
    return found


def _as_completed(futures: Iterable[Future[Any]]) -> Iterator[Future[Any]]:
    """The futures in the order in which they end. An interrupt is raised between two waits."""
    left = set(futures)
    while left:
        with delayed_interrupts():
            done, left = wait(left, NOTICED, FIRST_COMPLETED)
        yield from done


def _start() -> None:
    torch.set_num_threads(1)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the parent process handles Ctrl-C and ends this one


def _train(training: Training) -> tuple[dict[str, Any], tuple[Point, ...]]:
    try:
        seen = fit(
            training.attention,
            TASKS[training.task](training.seq_len),
            steps=training.steps,
            seed=training.seed,
            device=training.device,
        )
    except UnsupportedError as error:
        return training.row(Status.UNSUPPORTED, str(error)), ()
    except Exception as error:
        return training.row(Status.ERROR, f"{type(error).__name__}: {error}"), ()
    return training.row(Status.OK, seen=seen), seen.curve


@dataclass(frozen=True)
class CsvFile:
    """A CSV file that is flushed after every row."""

    file: IO[str]
    writer: csv.DictWriter[str]

    def write(self, row: Mapping[str, Any]) -> None:
        self.writer.writerow(row)
        self.file.flush()


def _table(file: IO[str], columns: Sequence[str]) -> CsvFile:
    table = CsvFile(file, csv.DictWriter(file, columns, extrasaction="ignore"))
    table.writer.writeheader()
    file.flush()
    return table
