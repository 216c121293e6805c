"""performer-pytorch's FastAttention for `performer`.

The causal form is the one that does not need the compiled code of another package.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.peers.packages import drawing, needs, rescaled
from variants import add_implementation
from variants.contract.definitions import expand_heads
from variants.performer import PerformerAttention


def attend(
    attention: PerformerAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    **call: Any,
) -> Tensor:
    heads, head_dim = query.shape[1::2]
    run = module(head_dim, attention.num_features, causal, attention.seed, query.device)
    key, value = expand_heads(key, heads), expand_heads(value, heads)
    return run(rescaled(query, scale), key, value)


@lru_cache(maxsize=8)
def module(head_dim: int, num_features: int, causal: bool, seed: int, device: torch.device) -> Any:
    """A FastAttention with random directions from `seed`."""
    from performer_pytorch import FastAttention

    with drawing(seed, torch.device("cpu")):
        return FastAttention(head_dim, num_features, causal=causal).to(device)


add_implementation(
    "performer",
    "performer_pytorch",
    attend=attend,
    unavailable=needs("performer_pytorch"),
    supports={"causal", "backward"},
    differs="draws its own directions, one set for all heads; shifts features by the maximum over "
    "all keys, including later ones, and then adds 0.0001 to each",
)
