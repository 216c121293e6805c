"""The lines of a journal: the header of each command, and the events after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Required, TypedDict

from msgspec import Meta

from bench.schema.column_types import Amount, Count, Device, Dtype, Name, Positive
from bench.schema.environment_file import (
    CheckFacts,
    CheckTime,
    DescribedMachine,
    Duration,
    ModelEnvironment,
    SweepEnvironment,
)

Case = dict[str, Any]  # the columns of a case; the record of the case checks them
Cases = Annotated[list[Case], Meta(min_length=1)]


class SweepHeader(TypedDict, total=False):
    """The first line of the journal of `python -m bench run`."""

    command: Name
    environment: Required[SweepEnvironment]
    device: Required[Device]
    files: Required[dict[str, str]]
    seconds: Positive
    shard: Name


class ModelSetup(TypedDict):
    """The settings that all cases of a run with a model share."""

    model: str
    text: str
    device: Device
    dtype: Dtype
    passes: Count


class ModelHeader(TypedDict):
    """The first line of the journal of `python -m bench model`."""

    command: Name
    environment: ModelEnvironment
    setup: ModelSetup
    cases: Cases
    timeout: Positive


class TrainingHeader(TypedDict):
    """The first line of the journal of `python -m bench train`."""

    command: Name
    environment: DescribedMachine
    cases: Cases


class CaseEvent(TypedDict):
    """A case starts, or ends without a result."""

    case_id: Name


class MachineEvent(TypedDict):
    """Another machine measures from now on."""

    host: Name
    environment: DescribedMachine


class SelfcheckEvent(TypedDict):
    """A check of the noise of a machine."""

    host: Name
    when: CheckTime
    found: CheckFacts


class ResultEvent(TypedDict, total=False):
    """A case has a row."""

    case_id: Required[Name]
    row: Required[dict[str, Any]]
    samples_ms: list[Amount]
    details: list[dict[str, Any]]
    heads: list[dict[str, Any]]  # the name of `details` in older journals
    seconds: Amount  # from the start of the case to its row
    shared_seconds: Amount  # the part that measured the baselines of the shape


class DurationEvent(Duration):
    """A command has measured all cases."""


EVENTS: Mapping[str, Any] = {
    "machine": MachineEvent,
    "selfcheck": SelfcheckEvent,
    "started": CaseEvent,
    "interrupted": CaseEvent,
    "result": ResultEvent,
    "duration": DurationEvent,
}
