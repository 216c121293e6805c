"""local-attention for the sliding window, in its `exact_windowsize` form.

The package pads a length that is not a multiple of the window. In this case it is called with a
mask, which it needs to leave out the padding.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.peers.packages import needs
from variants import UnsupportedError, add_implementation
from variants.contract.definitions import expand_heads
from variants.sliding_window import SlidingWindowAttention


def attend(
    attention: SlidingWindowAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    **call: Any,
) -> Tensor:
    if attention.window_size == 0:
        raise UnsupportedError("local-attention needs a window_size of at least 1")
    heads, seq_len = query.shape[1:3]
    key, value = expand_heads(key, heads), expand_heads(value, heads)
    mask = None
    if seq_len % attention.window_size:
        mask = torch.ones(query.shape[0], seq_len, dtype=torch.bool, device=query.device)
    return _module(attention.window_size, causal, scale)(query, key, value, mask=mask)


@lru_cache(maxsize=8)
def _module(window_size: int, causal: bool, scale: float) -> Any:
    from local_attention import LocalAttention

    return LocalAttention(
        window_size,
        causal=causal,
        scale=scale,
        autopad=True,
        exact_windowsize=True,
        use_rotary_pos_emb=False,
    )


add_implementation(
    "sliding_window",
    "local_attention",
    attend=attend,
    unavailable=needs("local_attention"),
    supports={"causal", "backward"},
)
