"""Facts that variants declare of themselves in the registry, for the rows of runs."""

from __future__ import annotations

from functools import cache

import pandas as pd


@cache
def exact_variant() -> str:
    """The variant that is exact attention: others are judged by it, and it is drawn apart."""
    from variants.contract.registry import reference_attention

    return reference_attention().info.name


@cache
def reference_implementation() -> str:
    """The implementation of exact attention that every call of a model is timed beside."""
    from variants.contract.registry import reference_attention

    return reference_attention().implementation


def calls_library(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether the kernel of a row is that of a public library."""
    declared = _declared("libraries")
    return _pairs(frame, "implementation").isin(declared) | _pairs(
        frame, "implementation_used"
    ).isin(declared)


def has_reduced_precision(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row was asked for with an implementation that rounds scores to bfloat16."""
    return _pairs(frame, "implementation").isin(_declared("reduced_precision"))


def _pairs(frame: pd.DataFrame, column: str) -> pd.Series[str]:
    return frame["variant"] + "/" + frame[column]


@cache
def _declared(word: str) -> list[str]:
    from variants import REGISTRY

    return [
        f"{name}/{implementation}"
        for name, cls in REGISTRY.items()
        for implementation in getattr(cls.info, word)
    ]
