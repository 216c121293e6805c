"""How a case ended, and where it was measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.schema.column_types import Count
from bench.schema.columns import Record, column

DIFFERS = "computes something else: "  # prefix of the reason of a row with status ok


class Status(StrEnum):
    """How a case ended."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    ERROR = "error"
    INCORRECT = "incorrect"
    IMPLAUSIBLE_TIME = "implausible_time"
    SKIPPED = "skipped"


LIMIT_NAMED = "of the measured matmul rate"  # in the reason of a row with an implausible time


def present_status(status: Status, reason: str) -> Status:
    """The status that this version gives to a row.

    Older versions called a row with an implausible time incorrect, although its output was right.
    """
    if status == Status.INCORRECT and LIMIT_NAMED in reason:
        return Status.IMPLAUSIBLE_TIME
    return status


@dataclass(frozen=True, kw_only=True)
class Outcome(Record):
    """Whether a case has numbers, and the reason if it has none."""

    status: Status = column("how the case ended: " + ", ".join(Status))
    reason: str = column(
        "one sentence, if status is not ok or the implementation computes something else than its "
        "variant",
        "",
    )
    implementation_used: str = column("the implementation that ran", "")
    target: str = column(
        "the operator that the method converges to as its settings grow; `other_kernel`: an "
        "operator other than softmax attention; its error measures how different the operator is, "
        "not its quality",
        "",
        came_later=True,
    )


@dataclass(frozen=True, kw_only=True)
class Place(Record):
    """The machine that measured a row, and the circumstances."""

    host: str = column(
        "pseudonym of the machine that measured the row; environment.json describes it",
        "",
        came_later=True,
    )
    device_id: str = column(
        "hash of the UUID of the GPU that measured the row; empty on a CPU", "", came_later=True
    )
    driver: str = column(
        "version of the GPU's driver; empty on a CPU, or if it is not known", "", came_later=True
    )
    attempts: Count = column("how often the case was started", 1, came_later=True)
    repeated_because: str = column(
        "why the case was measured again: its machine was lost, its worker process was killed, or "
        "other load disturbed it",
        "",
        came_later=True,
    )
    disturbed: str = column(
        "what disturbed the times of the row, such as other processes on the same cores; empty if "
        "nothing was seen",
        "",
        came_later=True,
    )
