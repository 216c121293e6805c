"""Block summaries: a query sees the keys of its own block and of the blocks beside it, and the mean
of every other block.

Differs from public code: the paper uses local attention in some layers and compressed attention in
others, and compresses by a learned convolution. Here one softmax in each row combines both kinds.
The means of the keys and values represent a block, so nothing is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import (
    compute_dtype,
    dot_products,
    group_means,
    masked_softmax,
    query_positions,
    visible,
)
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.pattern import Pattern
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.engines.gpu.listed import block_softmax, pooled_means
from variants.engines.gpu.listed.key_ranges import KeyRanges, Table, Tiles, stacked, tiles
from variants.engines.gpu.listed.pooled_means import joined_levels
from variants.engines.gpu.tile_widths import tile_sizes
from variants.engines.libraries import fused_sdpa
from variants.engines.primitives import head_slabs
from variants.engines.primitives.precision import Precision
from variants.engines.tiled import pooled_keys, tile_loop
from variants.engines.tiled.layouts.block_summaries import BlockSummaries


@register(
    title="Generating Wikipedia by Summarizing Long Sequences (local and compressed attention)",
    year=2018,
    url="https://arxiv.org/abs/1801.10198",
    time="n·(b + n/b)·d",
    memory="n·d + b²",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("blocks", "triton"),
    exact_when={"block_size": 1 << 40},
    grid={"block_size": (32, 64, 128, 256)},
)
@dataclass(frozen=True)
class BlockSummaryAttention(Attention):
    """Softmax attention over single keys nearby and over means of blocks far away.

        near(i) = keys of the query's own block of block_size tokens and of the blocks beside it
        far(i) = the mean key and value of each other block, with log(size) added to the score
        weights[i] = one softmax over near(i) and far(i)

    The size of a block is its number of tokens without padding. A causal call leaves out later keys
    and all later blocks.

    Costs: n tokens, d = head_dim, b = block_size.
    """

    block_size: int = hyperparameter(
        128, minimum=1, doc="number of tokens in a block", small=8, train=TimesLength(1 / 16)
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        offset = key_len - query_len
        if (key_len - 1) // self.block_size - min(0, offset) // self.block_size <= 1:
            # All blocks are neighbours.
            return fused_sdpa.attend(query, key, value, call)
        if self.choose_implementation(query, key) == "triton":
            levels = joined_levels((1, self.block_size), key_len)
            seen = pooled_means.pooled(key, value, call.key_padding_mask, levels)
            tiles = self._listed(query, key, call.causal)
            return block_softmax.run(
                query, seen.key, seen.value, tiles, scale=call.scale, key_bias=seen.bias()
            )
        dtype = Precision.of(query).operands
        first = max(0, -offset) if call.causal else 0
        layout = BlockSummaries(query_len, key_len, self.block_size, first, causal=call.causal)

        def attend(query: Tensor, key: Tensor, value: Tensor, some: slice) -> Tensor:
            items = pooled_keys.tokens(key.to(dtype), value.to(dtype), call.key_padding_mask)
            seen = pooled_keys.joined([items, pooled_keys.pool(items, self.block_size)])
            return tile_loop.run(
                query.to(dtype),
                seen.key,
                seen.value,
                [layout],
                scale=call.scale,
                key_bias=seen.bias(),
            )

        return head_slabs.one_by_one(attend, query, key, value).to(query.dtype)

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        if self.choose_implementation(query, key) == "triton":
            self._listed(query, key, call.causal)

    def _listed(self, query: Tensor, key: Tensor, causal: bool) -> Tiles:
        """Return the blocks of keys that the tiles of a kernel for a GPU read."""
        sizes = tile_sizes(query.shape[-1], query.dtype)
        lengths = query.shape[2], key.shape[2]
        return _tiles(*lengths, self.block_size, causal, sizes, query.device)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        allowed = visible(rows, query_len, key_len, call)
        positions = query_positions(rows, query_len, key_len)[:, None]
        own = positions.div(self.block_size, rounding_mode="floor")
        block = torch.arange(key_len, device=rows.device) // self.block_size
        # A token of a far block has the score of the mean of its block.
        mean = group_means(key.to(compute_dtype(key.dtype)), self.block_size, call.key_padding_mask)
        by_block = dot_products(query, mean, rows, call.scale)[..., block]
        near = (own - block).abs() <= 1
        scores = torch.where(near, dot_products(query, key, rows, call.scale), by_block)
        return masked_softmax(scores, allowed)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        near = Pattern(query_len, key_len, causal, window=1, block_size=self.block_size).pairs()
        positions = torch.arange(key_len - query_len, key_len, device="cpu")
        own = positions.div(self.block_size, rounding_mode="floor")
        last = (key_len - 1) // self.block_size
        far = (own - 1).clamp(min=0)
        if not causal:
            far = far + (last - (own + 1).clamp(min=-1)).clamp(min=0)
        return 4.0 * batch * heads * head_dim * (near + float(far.sum()))


@cached
def _tiles(
    query_len: int,
    key_len: int,
    block_size: int,
    causal: bool,
    sizes: tuple[int, int],
    device: torch.device,
) -> Tiles:
    """The near tokens and the far blocks of each block of queries, in a list of all tokens followed
    by all blocks."""
    offset, blocks = key_len - query_len, -(-key_len // block_size)
    lead = offset % block_size
    own = offset // block_size + np.arange(-(-(lead + query_len) // block_size))
    after = 1 if causal else 2
    near = (own - 1) * block_size, np.minimum((own + after) * block_size, key_len)
    parts: list[tuple[Table | int, Table | int]] = [
        near,
        (key_len, key_len + np.minimum(own - 1, blocks)),
    ]
    if not causal:
        parts.append((key_len + np.maximum(own + 2, 0), key_len + blocks))
    ranges = KeyRanges(
        stacked(parts, key_len + blocks),
        query_len,
        key_len + blocks,
        group_rows=block_size,
        lead=lead,
        offset=offset,
        causal=causal,
        tokens=key_len,
    )
    return tiles(ranges, *sizes, device)
