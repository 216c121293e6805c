"""pytorch-fast-transformers for `linear`: the authors' own code, in float32 only.

It is compiled on installation, against the installed torch. Feature maps and normaliser are those
of the package, which adds 1e-6 to the normaliser. Its layout (batch, seq_len, heads, head_dim) is
passed as a view.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import relu

from bench.peers.packages import needs
from variants import UnsupportedError, add_implementation
from variants.contract.definitions import expand_heads
from variants.linear import LinearAttention

INSTALL = (
    "pip install --no-deps --no-build-isolation pytorch-fast-transformers (compiles for minutes; "
    "with a CPU build of torch, without nvcc in PATH)"
)


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
    if query.dtype != torch.float32:
        raise UnsupportedError(f"pytorch-fast-transformers takes only float32; got {query.dtype}")
    batch, heads, seq_len, head_dim = query.shape
    run, mask, lengths = _module(
        attention.feature_map, causal, batch, seq_len, head_dim, query.device
    )
    query = query if scale == 1 else query * scale
    key, value = expand_heads(key, heads), expand_heads(value, heads)
    out = run(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, lengths, lengths
    )
    return out.transpose(1, 2)


@lru_cache(maxsize=8)
def _module(
    feature_map: str, causal: bool, batch: int, seq_len: int, head_dim: int, device: torch.device
) -> tuple[Any, Any, Any]:
    from fast_transformers import feature_maps, masking
    from fast_transformers.attention.causal_linear_attention import CausalLinearAttention
    from fast_transformers.attention.linear_attention import LinearAttention

    features = {
        "elu": feature_maps.elu_feature_map,
        "relu": feature_maps.ActivationFunctionFeatureMap.factory(relu),
    }[feature_map]
    lengths = masking.LengthMask(torch.full((batch,), seq_len, device=device))
    if causal:
        mask = masking.TriangularCausalMask(seq_len, device=device)
        return CausalLinearAttention(head_dim, features), mask, lengths
    mask = masking.FullMask(seq_len, device=device)
    return LinearAttention(head_dim, features), mask, lengths


add_implementation(
    "linear",
    "fast_transformers",
    attend=attend,
    unavailable=needs("fast_transformers.attention.causal_linear_attention", INSTALL),
    supports={"causal", "backward"},
)
