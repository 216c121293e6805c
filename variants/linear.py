"""Linear attention: a query reads sums over all keys; a feature map replaces the softmax.

Differs from public code: the package fast-transformers adds 1e-6 to the denominator, and fla 1e-10;
here nothing is added. linear-attention-transformer uses a softmax over channels for queries and a
softmax over positions for keys; that is another method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, relu

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import (
    compute_dtype,
    expand_heads,
    normalised,
    safe_total,
    visible,
)
from variants.contract.hyperparameter import hyperparameter
from variants.contract.registry import register
from variants.contract.variant import Memory
from variants.engines.gpu.sums import feature_sum
from variants.engines.gpu.sums.feature_sum import Rule
from variants.engines.kernelised import sum_all
from variants.engines.kernelised.feature_map import Features
from variants.engines.libraries import fla
from variants.engines.primitives.head_slabs import Slab
from variants.engines.primitives.precision import Precision
from variants.engines.primitives.softmax_tile import Scratch


@register(
    title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
    year=2020,
    url="https://arxiv.org/abs/2006.16236",
    time="n·d²",
    memory="n·d",
    target="other_kernel",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "step"},
    implementations=("chunks", "coarse", "triton", "fla"),
    reduced_precision={"coarse"},
    libraries={"fla"},
    grid={"feature_map": ("elu", "relu")},
    positions="none",
)
@dataclass(frozen=True)
class LinearAttention(Attention):
    """The weights are products of features, normalised in each row.

        weights[i, j] = f(q[i]) · f(key[j]) / sum over k of f(q[i]) · f(key[k]),  q = scale · query
        elu:   f(x) = elu(x) + 1
        relu:  f(x) = max(x, 0)

    The sums over j do not depend on i, so all rows share them. A causal call takes j, k <= i. With
    `relu`, all features of a query can be 0; the output of this query is then 0. The default scale
    is 1. The method does not approximate softmax attention, so it is not ranked by its error.

    Costs: n tokens, d = head_dim.

    Decoding: the state holds two sums for each head, the sum of f(key)ᵀ value and the sum of
    f(key). The size of the state does not depend on the number of tokens.
    """

    feature_map: str = hyperparameter(
        "elu",
        choices=("elu", "relu"),
        doc="function that makes features of queries and keys, elu(x) + 1 or max(x, 0)",
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        implementation = self.choose_implementation(query, key)
        if implementation == "fla":
            dtype = compute_dtype(query.dtype)
            keys, queries = (
                self._feature(key.to(dtype)),
                self._feature(query.to(dtype) * call.scale),
            )
            if call.key_padding_mask is not None:
                keys = keys.masked_fill(call.key_padding_mask[:, None, :, None], 0)
            return fla.attend(queries, keys, value, causal=call.causal)
        if implementation == "triton":
            rule = Rule(self.feature_map, call.causal, query.shape[-1], call.scale)
            return feature_sum.attend(query, key, value, call.key_padding_mask, rule)
        return sum_all.attend(
            query,
            key,
            value,
            _ElementwiseFeatures(self.feature_map, query.shape[-1], call.scale),
            call,
            coarse=implementation == "coarse",
        )

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        allowed = visible(rows, query.shape[2], key.shape[2], call)
        dtype = compute_dtype(query.dtype)
        keys = self._feature(expand_heads(key, query.shape[1]).to(dtype))
        queries = self._feature(query[:, :, rows].to(dtype) * call.scale)
        return normalised((queries @ keys.transpose(-2, -1)).masked_fill(~allowed, 0))

    def remember(self, heads: int, key: Tensor, value: Tensor, call: Call) -> Memory:
        features = _ElementwiseFeatures(self.feature_map, key.shape[-1], 1.0)
        states = sum_all.states(key, key, value, features, call.key_padding_mask)
        return (states.unflatten(0, key.shape[:2]),)

    def advance(
        self, memory: Memory, length: int, query: Tensor, key: Tensor, value: Tensor, call: Call
    ) -> tuple[Tensor, Memory]:
        (state,) = memory  # (batch, kv_heads, head_dim, head_dim + 1): sums of values and of ones
        assert isinstance(state, Tensor)
        keys = self._feature(key.to(state.dtype))
        if call.key_padding_mask is not None:
            keys = keys.masked_fill(call.key_padding_mask[:, None, :, None], 0)
        values = pad(value.to(state.dtype), (0, 1), value=1.0)
        queries = self._feature(query.to(state.dtype) * call.scale)
        rows = []
        for token in range(query.shape[2]):
            state = state + keys[:, :, token, :, None] * values[:, :, token, None]
            # Query heads that share a state are adjacent.
            asked = queries[:, :, token].unflatten(1, (key.shape[1], -1))
            rows.append((asked @ state).flatten(1, 2))
        sums = torch.stack(rows, dim=2)
        return (sums[..., :-1] / safe_total(sums[..., -1:])).to(query.dtype), (state,)

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        if implementation == "fla":
            return fla.unavailable(device)
        return super().unavailable(implementation, device)

    def triton_takes(self, query: Tensor) -> bool:
        return feature_sum.fits(query)

    def default_scale(self, head_dim: int) -> float:
        return 1.0

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # Each key updates a head_dim × head_dim state, and each query reads it. The causal form
        # needs as many operations.
        return 2.0 * batch * heads * head_dim**2 * (query_len + key_len)

    def _feature(self, x: Tensor) -> Tensor:
        # Not elu(x) + 1: far below zero, that sum rounds the small value exp(x) to 0.
        return x.clamp(max=0).exp() + relu(x) if self.feature_map == "elu" else relu(x)


class _ElementwiseFeatures(Features):
    """elu(x) + 1 or max(x, 0) of each channel."""

    def __init__(self, feature_map: str, head_dim: int, scale: float) -> None:
        self.elu = feature_map == "elu"
        self.num_features = head_dim
        self.scale = scale

    def queries(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        return self._of(
            scratch.copy("query", rows, precision.operands, self.scale), "query features", scratch
        )

    def keys(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        if rows.dtype is not precision.operands:
            rows = scratch.copy("key", rows, precision.operands)
        return self._of(rows, "key features", scratch)

    def query_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        return self._grad(features, grad).mul_(self.scale)

    def key_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        return self._grad(features, grad)

    def _of(self, rows: Tensor, name: str, scratch: Scratch) -> Tensor:
        made = scratch(name, rows.shape, rows.dtype)
        if not self.elu:
            return torch.clamp(rows, min=0, out=made)
        torch.clamp(rows, max=0, out=made).exp_()
        return made.add_(torch.clamp(rows, min=0, out=scratch("positive", rows.shape, rows.dtype)))

    def _grad(self, features: Tensor, grad: Tensor) -> Tensor:
        # The slope of elu(x) + 1 is exp(x) below 0, equal to the feature itself, and 1 above 0.
        slope = features.clamp(max=1) if self.elu else (features > 0).to(grad.dtype)
        return slope.to(grad.dtype).mul_(grad)
