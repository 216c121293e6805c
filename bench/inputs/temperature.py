"""Finds the temperature at which attention has a given number of effective keys."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from bench.inputs.source import InputsError
from bench.instruments.accuracy.description import mean_effective_keys

PAIRS = 1 << 24  # scores computed for each temperature; at least ROWS rows of each head
ROWS = 64
LIMIT = 1024.0  # temperatures from 1 / LIMIT to LIMIT are tried
CLOSE = 0.005  # the search stops at this relative distance from the given number


def temperature_for(
    effective_keys: float, query: Tensor, key: Tensor, *, causal: bool
) -> tuple[float, str]:
    """The temperature by which all scores must be divided, and a text that describes the result.

    The number of effective keys is a mean over batch, heads and equally spaced rows, or all rows of
    a short sequence. It grows with the temperature, as the entropy of a softmax does, from about
    one key to all visible keys. The temperature is found by bisection.

    Args:
        query: (batch, heads, seq_len, head_dim).
        key: (batch, kv_heads, key_len, head_dim).

    Raises:
        InputsError: no temperature gives that number of effective keys.
    """
    batch, heads, seq_len, _ = query.shape
    count = min(seq_len, max(ROWS, PAIRS // (batch * heads * key.shape[2])))
    # The middles of `count` equal stretches.
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
        "effective keys on average"
    )
