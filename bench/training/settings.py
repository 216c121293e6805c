"""Hyperparameters for a training on short sequences, at which no approximation is exact."""

from __future__ import annotations

import variants
from bench.sweep import SweepError
from variants import Attention


def attention_at(text: str, seq_len: int) -> Attention:
    """The attention of `"lsh num_hashes=2"`. A hyperparameter that the text does not name has the
    value that its variant declares for trainings at this length.

    Raises:
        SweepError: an unknown variant or setting, or one that cannot be trained.
    """
    try:
        known = variants.hyperparameters(variants.parse(text).info.name)
        attention = variants.parse(text, **{it.name: it.train_at(seq_len) for it in known})
    except ValueError as error:
        raise SweepError(str(error)) from error
    if "backward" not in attention.supports:
        raise SweepError(f"{text} cannot be trained: it has no backward pass")
    return attention
