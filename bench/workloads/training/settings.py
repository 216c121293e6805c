"""Hyperparameters for trainings on short sequences, small enough that no approximation is exact."""

from __future__ import annotations

import variants
from bench.plan.sweep import SweepError
from variants import Attention


def attention_at(text: str, seq_len: int) -> Attention:
    """The attention that a text such as `"lsh num_hashes=2"` names.

    A hyperparameter that is not in the text has the value that its variant declares for trainings
    at this length.

    Raises:
        SweepError: the variant or setting is unknown, or the attention cannot be trained.
    """
    try:
        known = variants.hyperparameters(variants.parse(text).info.name)
        attention = variants.parse(text, **{it.name: it.train_at(seq_len) for it in known})
    except ValueError as error:
        raise SweepError(str(error)) from error
    if "backward" not in attention.supports:
        raise SweepError(f"{text} cannot be trained: it has no backward pass")
    return attention
