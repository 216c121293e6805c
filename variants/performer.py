"""Performer attention: random positive features whose product estimates the softmax kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from variants.contract.attention import Attention, Parameters, hyperparameter
from variants.contract.dense import compute_dtype, expand_heads, normalised, visible
from variants.contract.registry import register
from variants.engines import prefix_sum


@register(
    title="Rethinking Attention with Performers",
    year=2020,
    url="https://arxiv.org/abs/2009.14794",
    time="n·m·d",
    memory="n·m",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("chunks",),
    grid={"num_features": (256,)},
)
@dataclass(frozen=True)
class PerformerAttention(Attention):
    """FAVOR+: feature(x) = exp(w·x - |x|²/2) over `num_features` directions w, blockwise orthogonal
    with the lengths of Gaussian vectors, drawn per query head from `seed`.

    Exponents are shifted by numbers that cancel in the quotient, and no epsilon is added. In the
    causal form the shift of a key is the maximum over earlier keys: nothing of the future reaches a
    row, not even through rounding.
    """

    num_features: int = hyperparameter(256, minimum=1)
    seed: int = hyperparameter(0)

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
        projected, key_projected, half_square = self._projections(query, key, scale)
        value = expand_heads(value, query.shape[1]).to(projected.dtype)
        highest = key_projected.detach().amax(-1) - half_square.detach()
        if key_padding_mask is not None:
            highest = highest.masked_fill(key_padding_mask[:, None], -torch.inf)
        if causal:
            shift = highest.cummax(-1).values
        else:
            shift = highest.amax(-1, keepdim=True).expand_as(highest)
        # Padding before the first real key: any finite shift will do, as its features are 0.
        shift = shift.masked_fill(shift == -torch.inf, torch.finfo(shift.dtype).min / 4)
        offset = half_square + shift
        if key_padding_mask is not None:
            offset = offset.masked_fill(key_padding_mask[:, None], torch.inf)
        features = (key_projected - offset[..., None]).exp()
        queries = (projected - projected.detach().amax(-1, keepdim=True)).exp()
        out = prefix_sum.attend(queries, features, value, shift if causal else None, causal=causal)
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
        projected, key_projected, half_square = self._projections(query[:, :, rows], key, scale)
        exponents = key_projected - half_square[..., None]
        highest = exponents.detach().amax(-1, keepdim=True)
        queries = (projected - projected.detach().amax(-1, keepdim=True)).exp()
        kernel = queries @ (exponents - highest).exp().transpose(-2, -1)
        # Put every key on the scale of the highest one its row sees.
        shift = highest.transpose(-2, -1).masked_fill(~allowed, -torch.inf)
        shift = shift - shift.amax(-1, keepdim=True)
        return normalised(kernel * shift.nan_to_num(-torch.inf, neginf=-torch.inf).exp())

    def prepare(self, query: Tensor, key: Tensor, **call: Any) -> None:
        _directions.cache_clear()
        self._placed_directions(query)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # Projection to the features, and the state they build or read.
        return 4.0 * batch * heads * head_dim * self.num_features * (query_len + key_len)

    def _projections(
        self, query: Tensor, key: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """w·q and w·k, (batch, heads, len, num_features), and |k|²/2, (batch, heads, len); |q|²/2
        is the same for all weights of a row, and cancels."""
        dtype, (heads, head_dim) = compute_dtype(query.dtype), query.shape[1::2]
        directions = self._placed_directions(query).to(dtype).transpose(-2, -1)
        # The features estimate exp(q·k / sqrt(head_dim)); another scale goes onto the query.
        root = head_dim**-0.25
        queries = query.to(dtype) * (scale * math.sqrt(head_dim) * root)
        keys = expand_heads(key, heads).to(dtype) * root
        return queries @ directions, keys @ directions, keys.square().sum(-1) / 2

    def _placed_directions(self, query: Tensor) -> Tensor:
        return _directions(
            query.shape[1], self.num_features, query.shape[3], self.seed, query.device
        )


@lru_cache(maxsize=16)
def _directions(
    heads: int, num_features: int, head_dim: int, seed: int, device: torch.device
) -> Tensor:
    """Random directions (heads, num_features, head_dim), kept from call to call."""
    generator = torch.Generator().manual_seed(seed)
    shape = (heads, -(-num_features // head_dim), head_dim, head_dim)
    gaussian = torch.randn(shape, generator=generator, dtype=torch.float64)
    # The signs make the orthogonal matrices uniformly distributed.
    orthogonal, triangle = torch.linalg.qr(gaussian)
    orthogonal = orthogonal * triangle.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    lengths = torch.randn(shape, generator=generator, dtype=torch.float64).norm(dim=-1)
    rows = (orthogonal.transpose(-2, -1) * lengths[..., None]).flatten(1, 2)
    return rows[:, :num_features].to(device)
