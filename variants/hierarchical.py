"""Hierarchical attention: a query sees near keys one by one, and far keys as means of groups.

Differs from public code: the paper also averages queries on coarser levels. A mean of queries would
contain later tokens, so here queries are not averaged. The normaliser of h-transformer-1d (0.1.9)
ignores group sizes, and without `causal` the first half of its queries sees no key of the second
half.
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
from variants.engines.tiled.layouts.key_blocks import KeyBlocks
from variants.engines.tiled.pooled_keys import Pooled


@register(
    title="H-Transformer-1D: Fast One-Dimensional Hierarchical Attention for Sequences",
    year=2021,
    url="https://arxiv.org/abs/2107.11906",
    time="n·b·log(n/b)·d",
    memory="n·d + b²·log(n/b)",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("blocks", "triton"),
    exact_when={"block_size": 1 << 40},
    grid={"block_size": (32, 64, 128, 256)},
)
@dataclass(frozen=True)
class HierarchicalAttention(Attention):
    """Softmax attention over single keys nearby and over means of ever larger groups far away.

        level l: blocks of block_size · 2^l tokens, groups of 2^l tokens
        level(i, j) = the lowest l at which key j is in the query's own block or in one beside it
        score(i, j) = scale · query[i] · (mean key of the level-l group of j)
        weights[i] = softmax over j of score(i, j)

    So a group acts as one key: its mean value is read, and log(size) is added to its score. Means
    and sizes leave padding out. A causal call leaves out later keys; no group contains both earlier
    and later tokens.

    Costs: n tokens, d = head_dim, b = block_size.
    """

    block_size: int = hyperparameter(
        64,
        minimum=2,
        step=2,
        doc="number of tokens in a block of the finest level",
        small=8,
        train=TimesLength(1 / 8),
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        levels = _levels(query_len, key_len, self.block_size)
        if levels == 0:
            return fused_sdpa.attend(query, key, value, call)
        if self.choose_implementation(query, key) == "triton":
            sizes = [1 << level for level in range(levels + 1)]
            joined = joined_levels(sizes, key_len, self.block_size // 2)
            groups = pooled_means.pooled(key, value, call.key_padding_mask, joined)
            tiles = self._listed(query, key, call.causal)
            return block_softmax.run(
                query, groups.key, groups.value, tiles, scale=call.scale, key_bias=groups.bias()
            )
        dtype = Precision.of(query).operands
        layout = _layout(query_len, key_len, self.block_size, call.causal, query.device)

        def attend(query: Tensor, key: Tensor, value: Tensor, some: slice) -> Tensor:
            items = pooled_keys.tokens(key.to(dtype), value.to(dtype), call.key_padding_mask)
            listed = [_whole(items, self.block_size // 2)]
            for _ in range(levels):
                items = pooled_keys.pool(items, 2)
                listed.append(_whole(items, self.block_size // 2))
            seen = pooled_keys.joined(listed)
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
        lengths = query.shape[2], key.shape[2]
        fused = self.choose_implementation(query, key) == "triton"
        if fused and _levels(*lengths, self.block_size) > 0:
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
        tokens = torch.arange(key_len, device=rows.device)
        wide = key.to(compute_dtype(key.dtype))
        scores = dot_products(query, key, rows, call.scale)
        # From the coarsest level to the finest: a finer level replaces the scores of its near keys.
        for level in reversed(range(_levels(query_len, key_len, self.block_size) + 1)):
            size = self.block_size << level
            own = positions.div(size, rounding_mode="floor")
            near = (own - tokens // size).abs() <= 1
            mean = group_means(wide, 1 << level, call.key_padding_mask)
            finer = dot_products(query, mean, rows, call.scale)[..., tokens >> level]
            scores = torch.where(near, finer, scores)
        return masked_softmax(scores, allowed)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        if _levels(query_len, key_len, self.block_size) == 0:
            size, slots = key_len, 1.0
        else:
            layout = _layout(query_len, key_len, self.block_size, causal, torch.device("cpu"))
            size, slots = layout.size, float((layout.chosen >= 0).sum(-1).double().mean())
        return 4.0 * batch * heads * head_dim * query_len * size * slots


def _levels(query_len: int, key_len: int, block_size: int) -> int:
    """Return the first level on which each key is near each query: in its block or beside it."""
    first, last = min(0, key_len - query_len) // block_size, (key_len - 1) // block_size
    level = 0
    while (last >> level) - (first >> level) > 1:
        level += 1
    return level


def _whole(items: Pooled, size: int) -> Pooled:
    """Append empty groups, up to a multiple of `size`."""
    key, value = (pooled_keys.grouped(x, 2, size).flatten(2, 3) for x in (items.key, items.value))
    return Pooled(key, value, pooled_keys.grouped(items.size, 1, size).flatten(1, 2))


@cached
def _layout(
    query_len: int, key_len: int, block_size: int, causal: bool, device: torch.device
) -> KeyBlocks:
    """Return the layout: the half blocks of the joined list of levels for each block of queries."""
    half = block_size // 2
    offset = key_len - query_len
    first = max(0, -offset) if causal else 0
    lead = (first + offset) % block_size
    tiles = -(-(lead + query_len - first) // block_size)
    own = (first + offset) // block_size + torch.arange(tiles, device=device)[:, None]
    beside = torch.arange(-2, 2 if causal else 4, device=device)
    groups = key_len
    count = begin = -(-groups // half)
    chosen = [_inside(2 * own + beside, 0, count)]
    for level in range(_levels(query_len, key_len, block_size)):
        # Blocks that are not near on this level, but are inside near blocks of the next level. On
        # the next level, each of them has block_size / 2 groups.
        block = own >> level
        odd = block % 2 == 1
        far = [block - 2, torch.where(odd, block - 3, -1)]
        if not causal:
            far += [block + 2, torch.where(odd, -1, block + 3)]
        groups = -(-groups // 2)
        count = -(-groups // half)
        chosen.append(_inside(torch.cat(far, dim=-1), begin, count))
        begin += count
    return KeyBlocks(
        torch.cat(chosen, dim=-1)[None],
        first,
        query_len,
        rows=block_size,
        size=half,
        lead=lead,
        key_len=begin * half,
        own=block_size if causal else None,
        may_be_empty=offset < 0,
    )


def _inside(blocks: Tensor, begin: int, count: int) -> Tensor:
    """Return the numbers of these blocks of a level in the joined list, -1 for missing blocks. The
    level has `count` blocks, which begin at `begin`."""
    return torch.where((blocks >= 0) & (blocks < count), blocks + begin, -1)


@cached
def _tiles(
    query_len: int,
    key_len: int,
    block_size: int,
    causal: bool,
    sizes: tuple[int, int],
    device: torch.device,
) -> Tiles:
    """The near tokens and the far groups of each level, for each block of queries, in the joined
    list of all levels."""
    half, offset = block_size // 2, key_len - query_len
    levels = _levels(query_len, key_len, block_size)
    joined = joined_levels([1 << level for level in range(levels + 1)], key_len, half)
    lead = offset % block_size
    own = offset // block_size + np.arange(-(-(lead + query_len) // block_size))
    parts: list[tuple[Table | int, Table | int]] = []

    def add(level: int, first: Table, stop: Table) -> None:
        """Half blocks `first` to `stop` of a level."""
        last = -(-key_len // (half << level))
        begin = joined.begins[level]
        ends = (begin + np.clip(x, 0, last) * half for x in (first, stop))
        parts.append((next(ends), next(ends)))

    add(0, 2 * own - 2, 2 * own + (2 if causal else 4))
    for level in range(levels):
        # The same far blocks as in `_layout`.
        block = own >> level
        odd = block % 2
        add(level + 1, block - 2 - odd, block - 1)
        if not causal:
            add(level + 1, block + 2, block + 4 - odd)
    ranges = KeyRanges(
        stacked(parts, joined.length),
        query_len,
        joined.length,
        group_rows=block_size,
        lead=lead,
        offset=offset,
        causal=causal,
        tokens=joined.begins[1],
    )
    # Blocks of keys begin where groups of half a block begin, so that most are fully visible.
    return tiles(ranges, sizes[0], sizes[1] if half % sizes[1] == 0 else 32, device)
