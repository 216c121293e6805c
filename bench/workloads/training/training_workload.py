"""The workload of `python -m bench train`: trainings of a tiny model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch

from bench.loop.executor import WorkerCall
from bench.loop.workload import Memory, Steps, Workload
from bench.schema.journal_events import TrainingHeader
from bench.schema.measurement import Raw
from bench.schema.outcome import Status
from bench.schema.training_row import Point, TrainingCase, TrainingRow
from bench.workloads.guarded import guarded
from bench.workloads.training.fit import fit
from bench.workloads.training.tasks import TASKS

TIMEOUT = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class TrainingWorkload(Workload[TrainingCase, TrainingRow]):
    """The trainings of a run, in this order."""

    command = "train"
    row_type = TrainingRow
    header_type = TrainingHeader
    detail_file = "curves.csv"
    detail_type = Point

    trainings: tuple[TrainingCase, ...]

    @property
    def check_seconds(self) -> float:
        return 0.0

    @property
    def cases(self) -> Sequence[TrainingCase]:
        return self.trainings

    @property
    def device(self) -> str:
        return self.trainings[0].device

    def header(self) -> dict[str, Any]:
        return {"cases": [case.values for case in self.trainings]}

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Self:
        """The workload of a run that is resumed."""
        return cls(tuple(TrainingCase.of_values(values) for values in header["cases"]))

    def facts(self) -> dict[str, Any]:
        return {}

    def measure(
        self, case: TrainingCase, machine: Mapping[str, Any], memory: Memory
    ) -> Steps[tuple[TrainingRow, Raw]]:
        return (yield WorkerCall(train, (case,), TIMEOUT))


def use_one_thread() -> None:
    """The start of a worker process on a CPU, so that numbers depend only on the seed."""
    torch.set_num_threads(1)


def train(case: TrainingCase) -> tuple[TrainingRow, Raw]:
    """Run a training. Every exception becomes a row with a status and a reason."""

    def work() -> tuple[TrainingRow, Raw]:
        task = TASKS[case.task](case.seq_len)
        seen = fit(case.attention, task, steps=case.steps, seed=case.seed, device=case.device)
        return TrainingRow.of(case, Status.OK, "", seen), Raw(details=seen.curve)

    return guarded(work, partial(TrainingRow.of, case), {})
