"""Transformer-XL attention: a query sees its segment up to its own position and a memory before the
segment; scores depend on the distance.

Differs from public code: the authors' code has separate key projections for content and position,
and stops the gradient at the memory; both are parts of a layer. The authors' code computes a
"relative shift" of a score matrix; here sinusoids are additional channels of queries and keys. The
options `clamp_len` and `same_length` do not exist here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.attention import Attention
from variants.contract.call import Call, Parameters
from variants.contract.definitions import (
    compute_dtype,
    expand_heads,
    masked_softmax,
    query_positions,
    visible,
)
from variants.contract.device import triton_takes
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.contract.variant import Memory
from variants.engines.decode import decode_attend
from variants.engines.decode.kv_cache import Kept
from variants.engines.gpu.listed import block_softmax
from variants.engines.gpu.listed.key_ranges import KeyRanges, Tiles, stacked, tiles
from variants.engines.gpu.listed.relative_queries import relative_queries
from variants.engines.gpu.tile_widths import tile_sizes
from variants.engines.primitives import head_slabs
from variants.engines.primitives.softmax_tile import HIDDEN
from variants.engines.tiled import tile_loop
from variants.engines.tiled.layouts.all_keys import AllKeys
from variants.engines.tiled.layouts.layout import Layout
from variants.engines.tiled.layouts.window import Window

BAND_SEGMENT = 512  # longest segment that one tile of `Window` computes


@register(
    title="Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context",
    year=2019,
    url="https://arxiv.org/abs/1901.02860",
    time="n·(s + m)·d",
    memory="n·d",
    target="biased_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "step"},
    implementations=("blocks", "coarse", "triton"),
    reduced_precision={"coarse"},
    causal_only=True,
    grid=[{"segment_size": n, "memory_size": n} for n in (128, 256, 512, 1024)],
)
@dataclass(frozen=True)
class TransformerXlAttention(Attention):
    """Softmax attention over a segment and a memory, with a learned score for the distance.

        s[i, j] = scale · ((query[i] + content_bias) · key[j]
                           + (query[i] + position_bias) · r(i - j))
        r(x) = position_projectionᵀ [sin(x·f) for all f, cos(x·f) for all f],
               f = 10000^(-t / head_dim) for t = 0, 2, 4, ... below head_dim
        weights[i] = softmax over j of s[i, j],  where start(i) - memory_size <= j <= i

    start(i) is the first position of the query's segment of `segment_size` tokens; the first
    segment begins with the first query. Keys before the first query are the memory of the first
    segment. Each head learns its own biases and its own projection. The scale multiplies them
    too.

    Costs: n tokens, d = head_dim, s = segment_size, m = memory_size.

    Decoding: the state holds the keys and values of the current segment and of the memory before
    it, at most segment_size + memory_size tokens.
    """

    segment_size: int = hyperparameter(
        512, minimum=1, doc="number of queries in a segment", small=8, train=TimesLength(1 / 4)
    )
    memory_size: int = hyperparameter(
        512,
        minimum=0,
        doc="number of keys before its segment that a query sees",
        small=8,
        train=TimesLength(1 / 4),
    )

    @property
    def prefix_stable(self) -> bool:
        return False  # segments are counted from the first query

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        # The sine and cosine of a difference are sums of products of the sines and cosines of its
        # terms. So the position term of a score is a dot product of the query, rotated by its own
        # position, and the sinusoids of the key. Both are appended as additional channels, and no
        # table of distances is needed.
        dtype = compute_dtype(query.dtype)
        query_len, key_len = query.shape[2], key.shape[2]
        waves = _sinusoids(key_len, _num_waves(query.shape[-1]), dtype, query.device)
        implementation = self.choose_implementation(query, key)
        if implementation == "triton":
            return self._fused(query, key, value, waves, call)
        # Queries before the first key see no key, so their sinusoids can have any value.
        offset = key_len - query_len
        own = waves[offset:] if offset >= 0 else pad(waves, (0, 0, -offset, 0))
        sin, cos = own.chunk(2, dim=-1)
        lengths = query_len, key_len, self.segment_size, self.memory_size
        bias = tile_loop.hidden_keys(call.key_padding_mask, dtype)

        def attend(query: Tensor, key: Tensor, value: Tensor, some: slice) -> Tensor:
            learned = {name: tensor[some].to(dtype) for name, tensor in call.parameters.items()}
            content, asked = _biased(query.to(dtype), learned)
            sines, cosines = (asked @ learned["position_projection"].mT).chunk(2, dim=-1)
            # sin(p - j) = sin p cos j - cos p sin j; cos(p - j) = cos p cos j + sin p sin j
            by_sin = torch.addcmul(cosines * sin, sines, cos, value=-1)
            by_cos = torch.addcmul(sines * sin, cosines, cos)
            queries = torch.cat([content, by_sin, by_cos], dim=-1)
            keys = torch.cat([key.to(dtype), waves.expand(*key.shape[:2], -1, -1)], dim=-1)
            return tile_loop.run(
                queries,
                keys,
                value.to(dtype),
                _segments(*lengths, query.device),
                scale=call.scale,
                key_bias=bias,
                coarse=implementation == "coarse",
            )

        return head_slabs.one_by_one(attend, query, key, value).to(query.dtype)

    def _fused(
        self, query: Tensor, key: Tensor, value: Tensor, waves: Tensor, call: Call
    ) -> Tensor:
        """Compute the call by kernels for a GPU."""
        query_len, key_len = query.shape[2], key.shape[2]
        learned = {name: tensor.to(waves.dtype) for name, tensor in call.parameters.items()}
        own = _sinusoids(key_len, waves.shape[1], key.dtype, key.device)
        return block_softmax.run(
            relative_queries(query, **learned, waves=waves, offset=key_len - query_len),
            torch.cat([key, own.expand(*key.shape[:2], -1, -1)], dim=-1),
            value,
            self._listed(query, key),
            scale=call.scale,
            key_bias=tile_loop.hidden_keys(call.key_padding_mask, query.dtype),
        )

    def triton_takes(self, query: Tensor) -> bool:
        # The channels of the positions are beside those of the content.
        return triton_takes(2 * query.shape[-1], query.dtype)

    def _listed(self, query: Tensor, key: Tensor) -> Tiles:
        """Return the blocks of keys that the tiles of a kernel for a GPU read."""
        sizes = tile_sizes(2 * query.shape[-1], query.dtype)
        lengths = query.shape[2], key.shape[2]
        return _tiles(*lengths, self.segment_size, self.memory_size, sizes, query.device)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        dtype = compute_dtype(query.dtype)
        query_len, key_len = query.shape[2], key.shape[2]
        learned = {name: tensor.to(dtype) for name, tensor in call.parameters.items()}
        content, asked = _biased(query[:, :, rows].to(dtype), learned)
        keys = expand_heads(key, query.shape[1]).to(dtype)
        positions = query_positions(rows, query_len, key_len)
        tokens = torch.arange(key_len, device=rows.device)
        distances = positions[:, None] - tokens
        waves = _sinusoids(key_len, _num_waves(query.shape[-1]), dtype, query.device)
        relative = waves @ learned["position_projection"]
        by_distance = asked @ relative.mT
        index = distances.clamp(min=0).expand(*by_distance.shape)
        scores = call.scale * (content @ keys.mT + by_distance.gather(-1, index))
        allowed = visible(rows, query_len, key_len, call)
        start = rows // self.segment_size * self.segment_size + key_len - query_len
        begin = (start - self.memory_size)[:, None]
        return masked_softmax(scores, allowed & (tokens >= begin))

    def remember(self, heads: int, key: Tensor, value: Tensor, call: Call) -> Memory:
        first = max(0, key.shape[2] - self._in_memory(key.shape[2]))
        padding = None if call.key_padding_mask is None else call.key_padding_mask[:, first:]
        return Kept.of(key[:, :, first:], value[:, :, first:], padding)

    def advance(
        self, memory: Memory, length: int, query: Tensor, key: Tensor, value: Tensor, call: Call
    ) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Kept)
        dtype = compute_dtype(query.dtype)
        learned = {name: tensor.to(dtype) for name, tensor in call.parameters.items()}
        content, asked = _biased(query.to(dtype), learned)
        by_wave = call.scale * (asked @ learned["position_projection"].mT)
        outs = []
        for row in range(query.shape[2]):
            some = slice(row, row + 1)
            padding = None if call.key_padding_mask is None else call.key_padding_mask[:, some]
            memory = memory.and_then(key[:, :, some], value[:, :, some], padding)
            # A power of two, so that many steps use the same cached table.
            reach = 1 << memory.tokens.bit_length()
            waves = _sinusoids(reach, by_wave.shape[-1], dtype, query.device)
            bias = by_wave[:, :, some] @ waves[: memory.tokens].flip(0).mT
            if memory.hidden is not None:
                bias = bias.masked_fill(memory.hidden[:, None, None], HIDDEN)
            tokens = memory.keys.to(dtype), memory.values.to(dtype)
            outs.append(decode_attend.attend(content[:, :, some], [tokens], bias, scale=call.scale))
            memory = memory.last(self._in_memory(length + row + 1))
        return torch.cat(outs, dim=2).to(query.dtype), memory

    def _in_memory(self, length: int) -> int:
        """Return the number of earlier tokens that the next token sees."""
        return length % self.segment_size + self.memory_size

    def init_parameters(self, heads: int, head_dim: int, seed: int = 0) -> Parameters:
        """Draw `content_bias` and `position_bias` (heads, head_dim), and `position_projection`
        (heads, head_dim rounded up to even, head_dim), which maps sinusoids to channels."""
        waves = _num_waves(head_dim)
        with lasting(seed) as generator:

            def draw(*shape: int) -> Tensor:
                return torch.randn(*shape, generator=generator, dtype=torch.float32)

            return {
                "content_bias": 0.1 * draw(heads, head_dim),
                "position_bias": 0.1 * draw(heads, head_dim),
                "position_projection": draw(heads, waves, head_dim) / math.sqrt(waves),
            }

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        dtype = compute_dtype(query.dtype)
        _sinusoids(key.shape[2], _num_waves(query.shape[-1]), dtype, query.device)
        if self.choose_implementation(query, key) == "triton":
            self._listed(query, key)
            _sinusoids(key.shape[2], _num_waves(query.shape[-1]), key.dtype, key.device)

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float:
        rows = torch.arange(max(0, query_len - key_len), query_len, device="cpu")
        offset = key_len - query_len
        start = rows // self.segment_size * self.segment_size + offset - self.memory_size
        return float((rows + offset + 1 - start.clamp(min=0)).sum())

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # Each pair has a second dot product, for the position. Each query also has a product with
        # the projection.
        pairs = self.useful_pairs(query_len, key_len, causal=causal)
        return 2.0 * batch * heads * head_dim * (3 * pairs + head_dim * query_len)


def _biased(query: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Return the queries for the content term and the queries for the position term."""
    return tuple(  # type: ignore[return-value]
        query + parameters[name][:, None] for name in ("content_bias", "position_bias")
    )


def _num_waves(head_dim: int) -> int:
    """Return the number of channels of the sinusoids: head_dim, rounded up to even."""
    return head_dim + head_dim % 2


@cached
def _sinusoids(length: int, channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return sin(x·f) and cos(x·f) for x = 0, 1, ..., (length, channels), cached between calls."""
    numbers = torch.arange(length, device=device, dtype=torch.float64)
    steps = torch.arange(0, channels, 2, device=device, dtype=torch.float64)
    # In float32, large angles would lose their fractional digits.
    angles = numbers[:, None] * 10000.0 ** (-steps / channels)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(dtype)


@cached
def _segments(
    query_len: int, key_len: int, segment: int, memory: int, device: torch.device
) -> list[Layout]:
    """Return the layouts of the rows at or after the position of the first key."""
    offset = key_len - query_len
    first = max(0, -offset)
    if (query_len - 1) // segment * segment + offset <= memory:
        # The memory of every segment reaches back to the first key.
        return [AllKeys(query_len, key_len, first, query_len, causal=True, device=device)]
    if segment <= BAND_SEGMENT:
        return [
            Window(
                first,
                query_len,
                offset=offset,
                key_len=key_len,
                rows=segment,
                before=memory,
                after=0,
                sliding=False,
                causal=True,
                lead=first % segment,
            )
        ]
    layouts: list[Layout] = []
    for start in range(first // segment * segment, query_len, segment):
        rows = max(start, first), min(start + segment, query_len)
        begin = max(0, start + offset - memory)
        layouts.append(AllKeys(query_len, key_len, *rows, causal=True, device=device, begin=begin))
    return layouts


@cached
def _tiles(
    query_len: int,
    key_len: int,
    segment: int,
    memory: int,
    sizes: tuple[int, int],
    device: torch.device,
) -> Tiles:
    """The keys from the memory of a query's segment to its own position."""
    offset = key_len - query_len
    start = np.arange(-(-query_len // segment)) * segment + offset
    ranges = KeyRanges(
        stacked([(start - memory, np.full_like(start, key_len))], key_len),
        query_len,
        key_len,
        group_rows=segment,
        offset=offset,
        causal=True,
    )
    return tiles(ranges, *sizes, device)
