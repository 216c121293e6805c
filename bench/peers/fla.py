"""flash-linear-attention's chunked Triton kernel for `linear`, causal and on CUDA.

Its layout puts positions before heads; the features are made from views, the copies its kernel
makes of them are inside the timed call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import elu, relu

from bench.peers.packages import EXTRA, missing
from variants import UnsupportedError, add_implementation
from variants.contract.dense import expand_heads
from variants.linear import LinearAttention

MODULE = "fla.ops.linear_attn"


def attend(
    attention: LinearAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    **call: Any,
) -> Tensor:
    from fla.ops.linear_attn import chunk_linear_attn

    if not causal:
        raise UnsupportedError("flash-linear-attention's kernel is causal")
    heads = query.shape[1]
    query = query if scale == 1 else query * scale
    query, key = (
        elu(x) + 1 if attention.feature_map == "elu" else relu(x)
        for x in (query.transpose(1, 2), expand_heads(key, heads).transpose(1, 2))
    )
    value = expand_heads(value, heads).transpose(1, 2)
    return chunk_linear_attn(query, key, value, scale=1.0, normalize=True)[0].transpose(1, 2)


def unavailable(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "flash-linear-attention has kernels for CUDA, not for a CPU"
    return missing(MODULE, EXTRA)


add_implementation(
    "linear",
    "fla",
    attend=attend,
    unavailable=unavailable,
    supports={"causal", "backward"},
)
