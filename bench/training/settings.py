"""Hyperparameters at which a variant is not exact attention on sequences as short as these."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import variants
from bench.sweep import SweepError, parse_variant
from variants import Attention

# By the name of a hyperparameter: as a share of the length, or as it is.
SHARES = {
    "window_size": 3 / 8,
    "max_span": 3 / 4,
    "ramp_size": 1 / 8,
    "segment_size": 1 / 4,
    "memory_size": 1 / 4,
    "chunk_size": 1 / 4,
    "bucket_size": 1 / 8,
    "block_size": 1 / 16,
    "num_landmarks": 1 / 2,
    "projected_len": 1 / 2,
    "num_features": 2,
    "hidden_dim": 1,
    "num_global_tokens": 1 / 8,
    "num_sink_tokens": 1 / 8,
}
COUNTS = {"num_global_blocks": 1, "num_random_blocks": 4, "num_hashes": 4, "top_k": 4}


def attention_at(text: str, seq_len: int) -> Attention:
    """The attention of `"lsh num_hashes=2"`: what is not said is set for this length.

    Raises:
        SweepError: an unknown variant or setting, or one that cannot be trained.
    """
    name, *words = text.split() or [""]
    said = {word.partition("=")[0] for word in words}
    try:
        for field in dataclasses.fields(variants.create(name)):
            if field.name in said:
                continue
            if field.name in SHARES:
                words.append(
                    f"{field.name}={_number(field.metadata, SHARES[field.name] * seq_len)}"
                )
            elif field.name in COUNTS:
                words.append(f"{field.name}={COUNTS[field.name]}")
        # A name alone would ask for the settings of its grid.
        words = words or ["implementation=auto"]
        (attention,) = parse_variant(" ".join([name, *words]))
    except SweepError:
        raise
    except ValueError as error:
        raise SweepError(str(error)) from error
    if "backward" not in attention.supports:
        raise SweepError(f"{text} cannot be trained: it has no backward pass")
    return attention


def _number(limits: Mapping[str, Any], wanted: float) -> int:
    """In the steps in which a hyperparameter goes: one of even numbers is twice what is wanted."""
    return max(round(wanted) * limits["step"], limits["minimum"] or 0)
