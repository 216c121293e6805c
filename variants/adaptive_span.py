"""Adaptive attention span: a query sees keys up to a learned distance; the weights fall to 0 beyond
it.

Differs from public code: the authors' code hides a token's own key, adds 1e-8 to the sum of
weights, and is causal only. Here a token sees its own key, at distance 0, and nothing is added. The
penalty that shortens spans is a part of training, not of this variant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call, Parameters
from variants.contract.definitions import (
    compute_dtype,
    dot_products,
    masked_softmax,
    query_positions,
    visible,
)
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.pattern import Pattern
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.engines.gpu.listed import block_softmax
from variants.engines.gpu.listed.moving_tiles import tiles_within
from variants.engines.gpu.tile_widths import tile_sizes
from variants.engines.primitives.softmax_tile import HIDDEN
from variants.engines.tiled import tile_loop
from variants.engines.tiled.layouts import window


@register(
    title="Adaptive Attention Span in Transformers",
    year=2019,
    url="https://arxiv.org/abs/1905.07799",
    time="n·z·d",
    memory="n·d",
    target="biased_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("blocks", "triton"),
    grid={"max_span": (128, 256, 512, 1024)},
    positions="distance",
)
@dataclass(frozen=True)
class AdaptiveSpanAttention(Attention):
    """Softmax attention with weights that fall to zero beyond a learned distance.

        m(x) = clamp((ramp_size + span - x) / ramp_size, 0, 1),  x = distance of query i and key j
        weights[i, j] = m(x) · exp(s[i, j]) / sum over k of m(|i - k|) · exp(s[i, k]),
                        s[i, j] = scale · query[i] · key[j]

    Each head learns one number of tokens, its `span`, which is limited to 0 ... `max_span`. Without
    `causal`, the span applies to both sides of the query.

    Costs: n tokens, d = head_dim, z = the mean span of the heads.
    """

    max_span: int = hyperparameter(
        1024,
        minimum=0,
        doc="longest span that a head may learn, in tokens",
        small=16,
        train=TimesLength(3 / 4),
    )
    ramp_size: int = hyperparameter(
        32,
        minimum=1,
        doc="number of tokens beyond the span over which a weight falls to 0",
        small=4,
        train=TimesLength(1 / 8),
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        if self.choose_implementation(query, key) == "triton":
            return self._fused(query, key, value, call)
        rows = window.ROWS
        # The number of keys before a tile is rounded up to whole tiles, so that neighbouring heads
        # can share one layout.
        farthest = max(query_len, key_len)
        reaches = [
            -(-min(reach, farthest) // rows) * rows
            for reach in self._reaches(call.parameters["span"])
        ]
        first = max(0, query_len - key_len) if call.causal else 0
        layouts = []
        for reach, members in groupby(range(len(reaches)), key=reaches.__getitem__):
            layout = window.Window(
                first,
                query_len,
                offset=key_len - query_len,
                key_len=key_len,
                rows=rows,
                before=reach,
                after=0 if call.causal else reach,
                sliding=False,
                causal=False,
            )
            together = list(members)
            layout.heads = range(together[0], together[-1] + 1)
            layouts.append(layout)
        distances = _distances(query_len, key_len, query.device)
        dtype = compute_dtype(query.dtype)
        return tile_loop.run(
            query,
            key,
            value,
            layouts,
            scale=call.scale,
            key_bias=tile_loop.hidden_keys(call.key_padding_mask, dtype),
            distance_bias=self._log_share(
                call.parameters["span"].to(dtype), distances, call.causal
            ),
        )

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """Compute the call by kernels for a GPU; the spans stay on the device."""
        query_len, key_len = query.shape[2], key.shape[2]
        span = call.parameters["span"].to(compute_dtype(query.dtype))
        # A span of NaN gives NaN, and may not give a wrong number of blocks.
        longest = span.detach().nan_to_num(nan=self.max_span).clamp(0, self.max_span)
        reach = (longest.double() + self.ramp_size).ceil().int() - 1
        distances = _distances(query_len, key_len, query.device)
        bias = self._log_share(span, distances, call.causal)
        size = min(tile_sizes(query.shape[-1], query.dtype))
        return block_softmax.run(
            query,
            key,
            value,
            tiles_within(reach, query_len, key_len, size=size, causal=call.causal),
            scale=call.scale,
            key_bias=tile_loop.hidden_keys(call.key_padding_mask, query.dtype),
            distance_bias=bias + 0 * span[:, None],
        )

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        if self.choose_implementation(query, key) == "triton":
            _distances(query.shape[2], key.shape[2], query.device)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        allowed = visible(rows, query_len, key_len, call)
        positions = query_positions(rows, query_len, key_len)[:, None]
        distances = positions - torch.arange(key_len, device=rows.device)
        scores = dot_products(query, key, rows, call.scale)
        bias = self._log_share(call.parameters["span"].to(scores.dtype), distances, call.causal)
        return masked_softmax(scores + bias, allowed & (bias > HIDDEN / 2))

    def init_parameters(self, heads: int, head_dim: int, seed: int = 0) -> Parameters:
        """Draw `span` (heads,), in tokens, uniformly on a logarithmic scale. Trained models, too,
        have both short and long spans."""
        least, most = math.log(min(self.ramp_size, self.max_span + 1)), math.log(self.max_span + 1)
        with lasting(seed) as generator:
            uniform = torch.rand(heads, generator=generator, dtype=torch.float32)
            return {"span": (least + (most - least) * uniform).exp() - 1}

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float:
        """Count the pairs of the seeded spans, averaged over eight heads."""
        return self._pairs(8, query_len, key_len, causal) / 8

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        return 4.0 * batch * head_dim * self._pairs(heads, query_len, key_len, causal)

    def _pairs(self, heads: int, query_len: int, key_len: int, causal: bool) -> float:
        """Count the pairs that all heads together see with their seeded spans."""
        reaches = self._reaches(self.init_parameters(heads, 1)["span"])
        return sum(Pattern(query_len, key_len, causal, window=reach).pairs() for reach in reaches)

    def _reaches(self, span: Tensor) -> list[int]:
        """Return the largest distance at which each head sees a key."""
        spans = span.detach().double().clamp(0, self.max_span).tolist()
        if any(math.isnan(one) for one in spans):
            raise ValueError(f"adaptive_span: spans must be numbers; got {spans}")
        return [math.ceil(one + self.ramp_size) - 1 for one in spans]

    def _log_share(self, span: Tensor, distances: Tensor, causal: bool) -> Tensor:
        """Return log m(x) of each head, (heads, *distances.shape); HIDDEN for keys not seen."""
        span = span.reshape(-1, *(1,) * distances.ndim)
        reach = span.clamp(0, self.max_span) + self.ramp_size
        share = (reach - distances.abs()) / self.ramp_size
        seen = share > 0
        if causal:
            seen = seen & (distances >= 0)
        log = share.clamp(torch.finfo(share.dtype).tiny, 1).log()
        return torch.where(seen, log, HIDDEN)


@cached
def _distances(query_len: int, key_len: int, device: torch.device) -> Tensor:
    """Return the query position minus the key position, for each entry of the distance bias."""
    return key_len - 1 - torch.arange(query_len + key_len - 1, device=device)
