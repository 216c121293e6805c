"""Hyperparameters at which a variant is not exact attention on sequences as short as these."""

from __future__ import annotations

import dataclasses

import variants
from bench.sweep import parse_variant
from variants import Attention

# By the name of a hyperparameter: as a share of the length, or as it is.
SHARES = {
    "window_size": 3 / 8,
    "max_span": 3 / 8,
    "ramp_size": 1 / 8,
    "segment_size": 1 / 4,
    "memory_size": 1 / 4,
    "chunk_size": 1 / 4,
    "bucket_size": 1 / 4,
    "block_size": 1 / 8,
    "num_landmarks": 1 / 2,
    "projected_len": 1 / 2,
    "num_features": 2,
    "hidden_dim": 1,
    "num_global_tokens": 1 / 8,
    "num_sink_tokens": 1 / 8,
}
COUNTS = {"num_global_blocks": 1, "num_random_blocks": 2, "num_hashes": 4, "top_k": 4}


def attention_at(text: str, seq_len: int) -> Attention:
    """The attention of `"lsh num_hashes=2"`: what is not said is set for this length.

    Raises:
        ValueError: an unknown variant or setting; one that cannot be trained.
    """
    name, *words = text.split() or [""]
    fields = {f.name: f for f in dataclasses.fields(variants.create(name))}
    said = {word.partition("=")[0] for word in words}
    for field in fields.keys() - said:
        least, step = (fields[field].metadata.get(key) for key in ("minimum", "step"))
        if field in SHARES:
            number = max(round(SHARES[field] * seq_len), least or 1)
            words.append(f"{field}={-(-number // (step or 1)) * (step or 1)}")
        elif field in COUNTS:
            words.append(f"{field}={COUNTS[field]}")
    (attention,) = (
        parse_variant(" ".join([name, *words])) if words else [variants.create(name)]
    )
    if "backward" not in attention.supports:
        raise ValueError(f"{text} cannot be trained: it does not support backward")
    return attention
