"""The temperature at which attention on given tensors has so many effective keys."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from bench.accuracy.description import mean_effective_keys
from bench.inputs.source import InputsError

PAIRS = 1 << 24  # scores that are looked at for each temperature, but at least 64 rows of each head
ROWS = 64
LIMIT = 1024.0  # temperatures from 1 / LIMIT to LIMIT are tried
CLOSE = 0.005  # relative distance from the wanted number that ends the search


def temperature_for(
    effective_keys: float, query: Tensor, key: Tensor, *, causal: bool
) -> tuple[float, str]:
    """A temperature by which all scores are divided, and what was found there in words.

    Effective keys are a mean over batch, heads and rows at equal distances, all rows if there are
    few. They grow with the temperature, as the entropy of a softmax does: from about one key to all
    visible ones. It is found by bisection.

    Args:
        query: (batch, heads, seq_len, head_dim).
        key: (batch, kv_heads, key_len, head_dim).

    Raises:
        InputsError: no temperature gives that many.
    """
    batch, heads, seq_len, _ = query.shape
    count = min(seq_len, max(ROWS, PAIRS // (batch * heads * key.shape[2])))
    # The middle of `count` equal stretches.
    rows = ((torch.arange(count).double() + 0.5) * (seq_len / count)).long()

    @cache
    def found(temperature: float) -> float:
        return mean_effective_keys(query / temperature, key, rows, causal=causal)

    reached = 1.0
    factor = 2.0 if found(reached) < effective_keys else 0.5
    while (found(reached) < effective_keys) == (factor > 1):
        reached *= factor
        if not 1 / LIMIT <= reached <= LIMIT:
            raise InputsError(
                f"effective_keys={effective_keys:g} cannot be reached: these inputs have "
                f"{found(1 / LIMIT):.4g} at temperature {1 / LIMIT:.2g} and {found(LIMIT):.4g} at "
                f"temperature {LIMIT:g}"
            )
    low, high = sorted((reached, reached / factor))
    while True:
        temperature = math.sqrt(low * high)
        seen = found(temperature)
        if abs(seen / effective_keys - 1) < CLOSE:
            break
        low, high = (temperature, high) if seen < effective_keys else (low, temperature)
    return temperature, (
        f"temperature {temperature:.4g}, at which {count} rows of each head have {seen:.4g} "
        "effective keys on the mean"
    )
