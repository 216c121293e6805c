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
    name, *words = text.split() or [""]
    said = {word.partition("=")[0] for word in words}
    try:
        for known in variants.hyperparameters(name):
            value = known.train_at(seq_len)
            if known.name not in said and value != known.default:
                words.append(f"{known.name}={value}")
        attention = variants.parse(" ".join([name, *words]))
    except ValueError as error:
        raise SweepError(str(error)) from error
    if "backward" not in attention.supports:
        raise SweepError(f"{text} cannot be trained: it has no backward pass")
    return attention
