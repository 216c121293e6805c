"""Linear attention: a feature map in the place of the exponential, so that sums can be shared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu

from variants.contract.attention import Attention, Parameters, hyperparameter
from variants.contract.dense import compute_dtype, expand_heads, normalised, visible
from variants.contract.registry import register
from variants.engines import fla, prefix_sum


@register(
    title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
    year=2020,
    url="https://arxiv.org/abs/2006.16236",
    time="n·d²",
    memory="n·d",
    target="other_kernel",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("chunks", "fla"),
    grid={"feature_map": ("elu", "relu")},
)
@dataclass(frozen=True)
class LinearAttention(Attention):
    """Weights are feature(query) · feature(key), divided by their sum. `elu` is elu(x) + 1;
    `relu` is max(x, 0), for which a row may see nothing at all and then is 0. No epsilon is added.
    The default scale is 1, as the method is not softmax's approximation."""

    feature_map: str = hyperparameter("elu", choices=("elu", "relu"))

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
    ) -> Tensor:
        dtype = compute_dtype(query.dtype)
        features = self._feature(key.to(dtype))
        if key_padding_mask is not None:
            features = features.masked_fill(key_padding_mask[:, None, :, None], 0)
        if self.choose_implementation(query, key) == "fla":
            queries = self._feature(query.to(dtype) * scale)
            return fla.attend(queries, features, value, causal=causal)
        out = prefix_sum.attend(
            self._feature(query.to(dtype) * scale), features, value.to(dtype), causal=causal
        )
        return out.to(query.dtype)

    def dense_weights(
        self,
        query: Tensor,
        key: Tensor,
        rows: Tensor,
        *,
        causal: bool,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
    ) -> Tensor:
        allowed = visible(
            rows,
            query.shape[2],
            key.shape[2],
            causal=causal,
            key_padding_mask=key_padding_mask,
        )
        dtype = compute_dtype(query.dtype)
        keys = self._feature(expand_heads(key, query.shape[1]).to(dtype))
        queries = self._feature(query[:, :, rows].to(dtype) * scale)
        return normalised((queries @ keys.transpose(-2, -1)).masked_fill(~allowed, 0))

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        return fla.unavailable(device) if implementation == "fla" else None

    def default_scale(self, head_dim: int) -> float:
        return 1.0

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # Each key adds to a head_dim × head_dim state, each query reads it; the causal form does
        # no less.
        return 2.0 * batch * heads * head_dim**2 * (query_len + key_len)

    def _feature(self, x: Tensor) -> Tensor:
        # Not elu(x) + 1: what is small far below zero would be rounded away.
        return x.clamp(max=0).exp() + relu(x) if self.feature_map == "elu" else relu(x)
