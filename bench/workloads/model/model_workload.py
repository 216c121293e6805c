"""The workload of `python -m bench model`: settings of variants in a pretrained model."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.loop.executor import WorkerCall
from bench.loop.workload import Memory, Steps, Workload
from bench.schema.journal_events import ModelHeader
from bench.schema.measurement import Raw
from bench.schema.model_row import ModelCase, ModelRow
from bench.workloads.model import measure
from bench.workloads.model.plan import Plan, Setup
from bench.workloads.model.text import ModelError, read_text

TIMEOUT = 1800.0  # seconds; a pass of a small model over 8192 tokens takes one or two minutes


@dataclass(frozen=True)
class ModelWorkload(Workload[ModelCase, ModelRow]):
    """The cases of a plan, and the seconds after which a case is stopped."""

    command = "model"
    row_type = ModelRow
    header_type = ModelHeader

    plan: Plan
    timeout: float = TIMEOUT

    @property
    def cases(self) -> Sequence[ModelCase]:
        return self.plan.cases

    @property
    def device(self) -> str:
        return self.plan.setup.device

    def header(self) -> dict[str, Any]:
        setup = self.plan.setup
        return {
            "setup": {**dataclasses.asdict(setup), "text": str(setup.text.resolve())},
            "cases": [case.values for case in self.plan.cases],
            "timeout": self.timeout,
        }

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Self:
        """The workload of a run that is resumed; ModelError if the text file has changed."""
        setup = Setup(**{**header["setup"], "text": Path(header["setup"]["text"])})
        cases = tuple(ModelCase.of_values(values) for values in header["cases"])
        if (now := read_text(setup.text).sha256) != cases[0].text_sha256:
            raise ModelError(
                f"{setup.text} has changed since the run was started: expected the SHA-256 "
                f"{cases[0].text_sha256}, got {now}"
            )
        return cls(Plan(setup, cases, header["environment"]["model"]), header["timeout"])

    def facts(self) -> dict[str, Any]:
        return {}

    def set_up(self, recorded: Mapping[str, Any] | None) -> Steps[dict[str, Any]]:
        parameters = yield WorkerCall(measure.open_model, (self.plan.setup,), self.timeout)
        if recorded is not None and recorded["model"]["parameters"] != parameters:
            raise ModelError(
                f"the model had {recorded['model']['parameters']} parameters when the run was "
                f"started, and has {parameters}"
            )
        return {"model": {**self.plan.facts, "parameters": parameters}}

    def measure(
        self, case: ModelCase, machine: Mapping[str, Any], memory: Memory
    ) -> Steps[tuple[ModelRow, Raw]]:
        return (yield WorkerCall(measure.measure, (case, self.plan.setup), self.timeout))

    def group(self, case: ModelCase) -> Hashable:
        return case.seq_len

    def weight(self, case: ModelCase) -> float:
        return case.seq_len * (1 + case.seq_len / 4096)
