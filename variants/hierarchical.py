"""Hierarchical attention: a query sees near keys one by one, and far keys as means of groups.

Differs from public code: the paper also averages queries on coarser levels. A mean of queries would
contain later tokens, so here queries are not averaged. The normaliser of h-transformer-1d (0.1.9)
ignores group sizes, and without `causal` the first half of its queries sees no key of the second
half.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    implementations=("blocks",),
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
