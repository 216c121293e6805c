"""The parts of environment.json that reports and resumed runs use. Other parts may be any JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required, TypedDict

from msgspec import Meta

from bench.schema.column_types import Amount, Bytes, Count, Name


class Hardware(TypedDict, total=False):
    """The machine of a run."""

    system: Name | None
    processor: Name | None
    cores: Count | None
    threads: Count | None
    memory_bytes: Bytes | None
    gpu: Name | None
    gpu_memory_bytes: Bytes | None


class Limits(TypedDict, total=False):
    """The measured limits of a machine."""

    matmul_tflops: Required[dict[str, Amount | None]]  # by dtype
    copy_gb_per_s: Amount | None
    read_gb_per_s: Amount | None


class SweepFacts(TypedDict, total=False):
    """The sweep of a run."""

    name: Required[Name]
    groups: Required[list[dict[str, Any]]]
    timeout: Amount
    slow_call: Amount
    energy: Amount
    knobs: dict[str, str]
    captures: dict[str, str]  # SHA-256 by name
    modules: list[str]
    added: list[str]


class ModelFacts(TypedDict, total=False):
    """The model and the text of a run with a model."""

    name: Name
    layers: Count
    context: Count | None
    text: Name
    text_tokens: Count
    knobs: dict[str, str]
    parameters: int


class Duration(TypedDict, total=False):
    """How long a command of a run took. Workers that measure at the same time add up."""

    predicted_seconds: Amount | None
    took_seconds: Required[Amount]
    other_seconds: Required[Amount]  # the part outside the cases: limits, checks of noise


class ProcessFacts(TypedDict, total=False):
    """Settings of the process that measures."""

    openmp: dict[str, str]
    allocator: dict[str, str]


class CheckFacts(TypedDict, total=False):
    """A check of the noise of a machine."""

    resolution: Required[Annotated[float, Meta(ge=0, le=1e6)] | None]
    disturbed: str
    resolution_between_processes: Annotated[float, Meta(ge=0, le=1e6)] | None


CheckTime = Literal["start", "end"]


class AnyEnvironment(TypedDict, total=False):
    """The parts that all environments may have."""

    started_utc: Name
    host: Name
    settings: dict[str, str]
    process: ProcessFacts


class MachineFacts(AnyEnvironment, total=False):
    """A machine of a run."""

    software: dict[str, str | None]
    hardware: Hardware
    limits: Limits


class EnvironmentFile(MachineFacts, total=False):
    """The content of environment.json: the first machine, the run, and other machines by host."""

    sweep: SweepFacts
    model: ModelFacts
    machines: dict[str, MachineFacts]
    selfchecks: dict[str, dict[CheckTime, CheckFacts]]
    durations: list[Duration]


class DescribedMachine(AnyEnvironment):
    """An environment that a resumed run can compare with the present one."""

    software: dict[str, str | None]
    hardware: Hardware


class SweepEnvironment(DescribedMachine):
    """The environment in the journal of a sweep."""

    limits: Limits
    sweep: SweepFacts


class ModelEnvironment(DescribedMachine):
    """The environment in the journal of a run with a model."""

    model: ModelFacts
