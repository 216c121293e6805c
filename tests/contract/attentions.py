"""Every registered variant, with small hyperparameters and with others.

No variant is named here. Hyperparameters come from the fields of each class. A property is tested
where `info.supports` and `target` declare it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from variants import REGISTRY, Attention

# Compilation takes seconds at every shape, so `test_flex` tests this implementation, on a few
# shapes.
COMPILED = {"flex"}


def small_settings(name: str) -> dict[str, Any]:
    """The small values that the variant declares: they split a few dozen tokens into many
    blocks."""
    return {known.name: known.small for known in variants.hyperparameters(name)}


def settings(name: str) -> dict[str, dict[str, Any]]:
    """Small hyperparameters; the smallest valid ones; the defaults; and each other choice or
    flag."""
    declared = variants.hyperparameters(name)
    small = small_settings(name)
    defaults = {known.name: known.default for known in declared}
    minima = {known.name: known.minimum for known in declared if known.minimum is not None}
    found = {"small": small, "minimum": defaults | minima, "defaults": defaults}
    for known in declared:
        others = [True, False] if known.type is bool else known.choices or ()
        for other in others:
            if other != known.default:
                found[f"{known.name}={other}"] = small | {known.name: other}
    distinct: dict[str, dict[str, Any]] = {}
    for label, chosen in found.items():
        if chosen not in distinct.values():
            distinct[label] = chosen
    return distinct


def attentions(
    *labels: str, where: Callable[[Attention], bool] = lambda attention: True
) -> list[Any]:
    """A pytest parameter for each setting of each variant. `labels` restricts the settings."""
    return [
        pytest.param(attention, id=f"{name}-{label}")
        for name in sorted(REGISTRY)
        for label, chosen in settings(name).items()
        if not labels or label in labels or "=" in label
        if where(attention := variants.create(name, **chosen))
    ]


def attentions_and_dtypes(
    first: torch.dtype,
    *others: torch.dtype,
    where: Callable[[Attention], bool] = lambda attention: True,
) -> list[Any]:
    """Every setting in the first dtype, and only small hyperparameters in the other dtypes."""
    small = attentions("small", where=where)
    cases = [(case, first) for case in attentions(where=where)]
    cases += [(case, dtype) for dtype in others for case in small]
    return [pytest.param(*case.values, dtype, id=f"{case.id}-{dtype}") for case, dtype in cases]


def supports(*words: str) -> Callable[[Attention], bool]:
    return lambda attention: set(words) <= attention.info.supports


def plainly(attention: Attention) -> Callable[..., Tensor]:
    """The variant as a function of query, key and value."""
    return partial(attention, causal=attention.info.causal_choices[0])


def has_seed(attention: Attention) -> bool:
    return any(field.name == "seed" for field in dataclasses.fields(attention))


def fresh_draws(attention: Attention, seed: int) -> Attention:
    """The same variant with a seed that no other test uses, so that no draws come from a cache."""
    return dataclasses.replace(attention, seed=seed) if has_seed(attention) else attention
