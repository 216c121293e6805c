"""The rows of training.csv and curves.csv."""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema.column_types import Amount, Count, Device, Index, Length, Name, Seed, Share
from bench.schema.columns import AskedAttention, Record, column
from bench.schema.row import Row


@dataclass(frozen=True, kw_only=True)
class TrainingCase(AskedAttention):
    """One attention, one task, one seed."""

    causal: bool = column("whether a token sees only tokens up to its own position")
    task: Name = column("task that a tiny model learns: copy or recall")
    seed: Seed = column("random seed of model and data")
    device: Device = column("cpu or cuda")
    seq_len: Length = column("tokens of a sequence")
    steps: Count = column("largest number of steps")

    @property
    def label(self) -> str:
        """A short name for progress bars and messages."""
        return f"{self.variant} {self.task} seed={self.seed}"


@dataclass(frozen=True, kw_only=True)
class TrainingResults(Record):
    """The result of a training, on held-out sequences."""

    learned: str = column(
        "yes if the accuracy is at least 90 %; `in sight` if it is so only on the answers that the "
        "patterns can reach; no",
        "",
    )
    accuracy: float | None = column("share of right answers", None)
    chance: Share | None = column("share of right answers by guessing", None)
    in_sight: float | None = column(
        "share of the answers that the query can reach through the patterns of the model", None
    )
    accuracy_in_sight: float | None = column(
        "accuracy on these answers; empty if there are none", None
    )
    loss_start: float | None = column("loss of the first step, on a batch of the training", None)
    loss_end: float | None = column("loss at the end", None)
    steps_taken: Index | None = column("steps until the task was mastered, or `steps`", None)
    seconds: Amount | None = column("time of the training, s", None)
    steps_per_s: Amount | None = column("steps_taken / seconds", None)


@dataclass(frozen=True, kw_only=True)
class TrainingRow(Row[TrainingCase], TrainingResults):
    """A row of training.csv."""

    case_type = TrainingCase
    records = (TrainingResults,)
    file = "training.csv"
    needed = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Point(Record):
    """A row of curves.csv, without its case: one training step, on a batch new to the model."""

    step: Index = column("number of the step")
    loss: float = column("loss of the step")
    accuracy: float = column("share of right answers of the step")
