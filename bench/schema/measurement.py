"""The rows of results.csv and heads.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.schema.accuracy_columns import Accuracy, HeadErrors, Repeatability
from bench.schema.case import Case
from bench.schema.column_types import Index
from bench.schema.columns import Record, column
from bench.schema.input_columns import InputFacts, InputStatistics
from bench.schema.memory_columns import MemoryUse
from bench.schema.row import Row
from bench.schema.timing_columns import Timing
from bench.schema.work_columns import Work


@dataclass(frozen=True, kw_only=True)
class Measurement(Row[Case], Timing, MemoryUse, Accuracy, Repeatability, InputFacts, Work):
    """A row of results.csv: one case of a sweep."""

    case_type = Case
    records = (Timing, MemoryUse, Accuracy, Repeatability, InputFacts, Work)
    file = "results.csv"
    needed = "time_ms_median"


@dataclass(frozen=True, kw_only=True)
class HeadIndex(Record):
    """Which head a row of heads.csv is about."""

    batch_index: Index = column("index of the sequence in the batch")
    head: Index = column("index of the query head")


@dataclass(frozen=True, kw_only=True)
class HeadRow(InputStatistics, HeadErrors, HeadIndex):
    """A row of heads.csv, without its case: one head of a case with status ok."""


@dataclass(frozen=True)
class Raw:
    """Data of a case that the journal has in addition to its row."""

    samples_ms: Sequence[float] = ()
    details: Sequence[Record] = ()  # rows of a second table, such as heads.csv
    shared_seconds: float = 0.0  # spent on the baselines of the shape, not on the case alone
    spoiled: bool = False  # the worker process must not measure other cases
