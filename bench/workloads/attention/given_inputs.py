"""The inputs of a case, and exact outputs on a sample of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import inputs
from bench.inputs import Inputs
from bench.instruments import accuracy
from bench.instruments.accuracy import Reference
from bench.schema.case import Case
from bench.schema.input_columns import InputFacts
from bench.workloads.attention import decode_steps


@dataclass(frozen=True)
class Settings:
    """The settings that all cases of a run share on one machine."""

    files: Mapping[str, Path]
    matmul_tflops: Mapping[str, float | None]
    seconds: float  # sampling time of a case
    read_gb_per_s: float | None = None
    energy: float = 0.0  # seconds in which calls are repeated to measure their energy


@dataclass(frozen=True)
class Given:
    """Query, key and value, exact outputs, and the columns that all methods share."""

    inputs: Inputs
    reference: Reference
    facts: InputFacts

    @classmethod
    def load(cls, case: Case, files: Mapping[str, Path]) -> Given:
        """Load the inputs of a case and compute exact outputs in float64."""
        given = inputs.load(case, files)
        reference = Reference.of(
            given.query, given.key, given.value, _sample(case), causal=case.causal
        )
        return cls(given, reference, accuracy.input_facts(reference, given.detail))


def _sample(case: Case) -> accuracy.Sample:
    """The rows on which errors are measured; for decode, tokens that are decoded one by one."""
    if case.direction == "decode":
        return accuracy.last_rows(decode_steps.checked_rows(case.key_len))
    heads = case.batch * case.heads
    return accuracy.sample_rows(case.seq_len, case.key_len, causal=case.causal, heads=heads)
