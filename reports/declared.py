"""The declarations of variants that reports need, from a file that `make docs` generates.

Reading the registry instead would import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from bench.schema.validation import read_json

FILE = Path(__file__).with_name("declared.json")


class Declarations(TypedDict):
    """The content of declared.json."""

    exact_variant: str
    reference_implementation: str
    libraries: list[str]
    reduced_precision: list[str]
    targets: dict[str, str]
    knobs: dict[str, str]
    costs: dict[str, dict[str, Any]]


def exact_variant() -> str:
    """The variant that is exact attention: the errors of others are relative to it."""
    name: str = _declared()["exact_variant"]
    return name


def declared_variants() -> Sequence[str]:
    """The names of all variants of this version, sorted."""
    return sorted(_declared()["costs"])


def reference_implementation() -> str:
    """The implementation of exact attention that is timed beside every call of a model."""
    name: str = _declared()["reference_implementation"]
    return name


def calls_library(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row's kernel belongs to a public library."""
    declared = _declared()["libraries"]
    return _pairs(frame, "implementation").isin(declared) | _pairs(
        frame, "implementation_used"
    ).isin(declared)


def has_reduced_precision(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row's case names an implementation that rounds scores to bfloat16."""
    return _pairs(frame, "implementation").isin(_declared()["reduced_precision"])


def target(variant: str, settings: Mapping[str, str]) -> str:
    """The operator that a variant with these hyperparameters converges to; empty for a variant that
    is not in this version."""
    targets: dict[str, str] = _declared()["targets"]
    words = (f"{variant} {name}={value}" for name, value in settings.items())
    return next((targets[word] for word in words if word in targets), targets.get(variant, ""))


def knob(variant: str) -> str:
    """The knob of a variant at its default, as `window_size=256`; empty for one without a knob, or
    that is not in this version."""
    return str(_declared()["knobs"].get(variant, ""))


@dataclass(frozen=True)
class Costs:
    """The declared orders of time and memory; `letters` names the arguments in them."""

    time: str
    memory: str
    letters: Mapping[str, str]


def costs(variant: str) -> Costs | None:
    """The declared costs of a variant; None for one that is not in this version."""
    known = _declared()["costs"].get(variant)
    return Costs(**known) if known else None


def _pairs(frame: pd.DataFrame, column: str) -> pd.Series[str]:
    return frame["variant"] + "/" + frame[column]


@cache
def _declared() -> dict[str, Any]:
    return read_json(FILE, Declarations)
