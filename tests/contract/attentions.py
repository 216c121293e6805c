"""Every registered variant, with small and other hyperparameters.

The variants are never named: hyperparameters come from the fields of each class, and a property
applies where `info.supports` and `target` say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch import Tensor

import variants
from variants import REGISTRY, Attention

# Values that cut a few dozen tokens into many pieces, for every field that has one of these names.
SMALL = {
    "window_size": 5,
    "num_global_tokens": 3,
    "block_size": 8,
    "num_random_blocks": 2,
    "bucket_size": 8,
    "num_hashes": 2,
    "num_features": 16,
    "num_landmarks": 8,
    "num_sink_tokens": 3,
    "projected_len": 8,
    "hidden_dim": 4,
    "chunk_size": 8,
    "segment_size": 8,
    "memory_size": 8,
    "max_span": 16,
    "ramp_size": 4,
    "top_k": 2,
}

# Compiled for seconds at every shape, and so tested apart, on a few shapes: `test_flex`.
COMPILED = {"flex"}


def small_settings(name: str) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(REGISTRY[name])}
    found = {}
    for word in SMALL.keys() & fields.keys():
        minimum = fields[word].metadata.get("minimum")
        found[word] = SMALL[word] if minimum is None else max(SMALL[word], minimum)
    return found


def settings(name: str) -> dict[str, dict[str, Any]]:
    """Small hyperparameters; the smallest allowed; the defaults; and each other choice or flag."""
    fields = [f for f in dataclasses.fields(REGISTRY[name]) if f.name != "implementation"]
    small = small_settings(name)
    minima = {f.name: f.metadata.get("minimum") for f in fields}
    found = {
        "small": small,
        "minimum": {word: least for word, least in minima.items() if least is not None},
        "defaults": {},
    }
    for field in fields:
        others = list(field.metadata.get("choices") or ())
        if isinstance(field.default, bool):
            others = [True, False]
        for other in others:
            if other != field.default:
                found[f"{field.name}={other}"] = small | {field.name: other}
    distinct: dict[str, dict[str, Any]] = {}
    for label, chosen in found.items():
        if chosen not in distinct.values():
            distinct[label] = chosen
    return distinct


def attentions(
    *labels: str, where: Callable[[Attention], bool] = lambda attention: True
) -> list[Any]:
    """A pytest parameter for each setting of each variant; only some settings if `labels` says."""
    return [
        pytest.param(attention, id=f"{name}-{label}")
        for name in sorted(REGISTRY)
        for label, chosen in settings(name).items()
        if not labels or label in labels or "=" in label
        if where(attention := variants.create(name, **chosen))
    ]


def supports(*words: str) -> Callable[[Attention], bool]:
    return lambda attention: set(words) <= attention.info.supports


def plainly(attention: Attention) -> Callable[..., Tensor]:
    """The variant as a function of query, key and value."""
    return partial(attention, causal=attention.info.causal_choices[0])


def has_seed(attention: Attention) -> bool:
    return any(field.name == "seed" for field in dataclasses.fields(attention))


def fresh_draws(attention: Attention, seed: int) -> Attention:
    """The same variant with a seed nobody used before, so that nothing comes from a cache."""
    return dataclasses.replace(attention, seed=seed) if has_seed(attention) else attention
