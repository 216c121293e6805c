"""The interface of workloads: sweeps, runs with a model, trainings.

A workload says which cases there are, which calls of a worker measure one, and which files show the
results. The loop does everything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from bench.loop.executor import WorkerCall
from bench.loop.result_files import write_table
from bench.schema.columns import AskedAttention, Record
from bench.schema.measurement import Raw
from bench.schema.origin import Origin, knobs_of, origin_of
from bench.schema.outcome import Status
from bench.schema.row import Row
from bench.selfcheck import same_code
from variants.contract.registry import default_knob

CaseT = TypeVar("CaseT", bound=AskedAttention)
RowT = TypeVar("RowT", bound="Row[Any]")
Result = TypeVar("Result")
# A function that yields calls and receives their results, or the exception of a call.
Steps = Generator[WorkerCall, Any, Result]


@dataclass(frozen=True)
class Memory:
    """Data that a workload keeps about a worker between two cases."""

    process: dict[str, Any] = field(default_factory=dict)  # emptied when the process is replaced
    worker: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry(Generic[RowT]):
    """A finished case: its row, the rows of the second table, and how long it took."""

    row: RowT
    details: Sequence[Record] = ()
    seconds: float | None = None  # of all its measurements; older runs do not have it
    shared_seconds: float = 0.0  # the part that measured the baselines of the shape


@dataclass(frozen=True)
class Expected:
    """The predicted time of a run.

    Attributes:
        seconds: of the cases that have no row yet.
        said: a sentence for the user.
        of_cases: seconds of each case, by its id.
    """

    seconds: float
    said: str
    of_cases: Mapping[str, float]


class Workload(ABC, Generic[CaseT, RowT]):
    """A list of cases, and how they are measured."""

    command: ClassVar[str]  # of `python -m bench`
    row_type: type[RowT]
    header_type: ClassVar[Any]  # of the first line of the journal
    detail_file: ClassVar[str] = ""
    detail_type: ClassVar[type[Record]] = Record

    @property
    @abstractmethod
    def cases(self) -> Sequence[CaseT]:
        """All cases, in the order in which they are measured and written."""

    @property
    @abstractmethod
    def device(self) -> str:
        """cpu or cuda."""

    @property
    def check_seconds(self) -> float:
        """Sampling time of the selfchecks at the start and the end of a run, in seconds.

        It is 0 if there are none, because nobody compares the times of these rows.
        """
        return same_code.SHORT_SECONDS

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """The settings from which a resumed run makes this workload again, as JSON."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The entries of environment.json about the workload, as JSON."""

    def set_up(self, recorded: Mapping[str, Any] | None) -> Steps[dict[str, Any]]:
        """Measure the properties of a machine that its cases need, such as its limits.

        Args:
            recorded: the result of an earlier call on this machine; the calls that prepare the
                process are then sufficient.

        Returns:
            Entries for the environment of the machine.
        """
        return {}
        yield

    def skipped(self, case: CaseT, rows: Mapping[str, RowT], machine: Mapping[str, Any]) -> str:
        """Why a case is not measured, in one sentence; empty if it is.

        Args:
            case: the case.
            rows: the rows of machines of the same kind, by the id of their cases.
            machine: the environment of the machine that would measure it.
        """
        return ""

    @abstractmethod
    def measure(
        self, case: CaseT, machine: Mapping[str, Any], memory: Memory
    ) -> Steps[tuple[RowT, Raw]]:
        """Measure a case on a machine. CallTimeout, WorkerDied and WorkerLost may be left to the
        loop."""

    def failed(self, case: CaseT, status: Status, reason: str) -> RowT:
        """The row of a case without results."""
        return self.row_type.of(case, status, reason)

    def group(self, case: CaseT) -> Hashable:
        """Cases of one group share what a worker keeps, so one worker measures them if possible."""
        return None

    def series(self, case: CaseT) -> Hashable:
        """Cases of one series are measured one after another: a result may skip later ones."""
        return case.case_id

    def weight(self, case: CaseT) -> float:
        """Roughly the expected seconds of a case; only ratios matter, for the time left."""
        return 1.0

    def write(
        self, folder: Path, entries: Mapping[str, Entry[RowT]], environment: Mapping[str, Any]
    ) -> None:
        """Write the tables of the finished cases, in the order of the cases.

        `environment` is the content of environment.json.
        """
        known = [entry for case in self.cases if (entry := entries.get(case.case_id))]
        knobs = knobs_of(environment)

        def full(row: RowT) -> dict[str, Any]:
            variant = row.case.variant
            knob = knobs[variant] if variant in knobs else default_knob(variant)
            target = row.target or row.case.attention.target  # a failed row does not have it
            origin = origin_of(row.values, environment, knob)
            return row.values | {"target": target} | origin.values

        write_table(
            folder / self.row_type.file,
            {**self.row_type.columns(), **Origin.columns()},
            (full(entry.row) for entry in known),
        )
        if self.detail_file:
            case_columns = self.row_type.case_type.columns()
            details = (
                entry.row.case.values | detail.values for entry in known for detail in entry.details
            )
            columns = {**case_columns, **self.detail_type.columns()}
            write_table(folder / self.detail_file, columns, details)
