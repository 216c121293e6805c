"""Chooses blocks of keys by the means of their keys, and lists them for `gathered_softmax`.

Two kernels choose, whatever the length: scores are in float32 and never written to memory, and
where float32 cannot decide, a tile of rows is computed again in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from variants.contract.call import Call
from variants.contract.strides import readable
from variants.contract.tensor_cache import cached
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.selected.gathered_softmax import Gathered
from variants.engines.gpu.tile_widths import padded_width


def _mean_shapes(key: Tensor, hidden: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    batch, kv_heads, key_len, head_dim = key.shape
    shape = batch, kv_heads, -(-key_len // size), head_dim
    return (
        torch.empty(shape, dtype=torch.float64, device=key.device),
        torch.empty(shape[:3], dtype=torch.int32, device=key.device),
    )


@operation(
    "block_means(Tensor key, Tensor? hidden, int size) -> (Tensor means, Tensor counts)",
    _mean_shapes,
)
def _means(key: Tensor, hidden: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.selected.block_selection_kernels import block_means_kernel

    means, counts = _mean_shapes(key, hidden, size)
    batch, kv_heads, key_len, head_dim = key.shape
    blocks = means.shape[2]
    launch(
        block_means_kernel,
        (blocks, batch * kv_heads),
        *(key, key if hidden is None else hidden.view(torch.uint8), means, counts),
        *(kv_heads, key_len, head_dim, blocks, size, *key.stride()[:3]),
        PADDED=hidden is not None,
        ROWS=32,
        CHANNELS=padded_width(head_dim),
    )
    return means, counts


def _choice_shapes(query: Tensor, *arguments: Any) -> Tensor:
    shape = *query.shape[:2], arguments[-2], query.shape[2]
    return torch.empty(shape, dtype=torch.int32, device=query.device)


@operation(
    "choose_blocks(Tensor query, Tensor positions, Tensor means, Tensor counts, int sign, "
    "int size, int count, bool causal) -> Tensor",
    _choice_shapes,
)
def _choose(
    query: Tensor,
    positions: Tensor,
    means: Tensor,
    counts: Tensor,
    sign: int,
    size: int,
    count: int,
    causal: bool,
) -> Tensor:
    from variants.engines.gpu.selected.block_selection_kernels import choose_blocks_kernel

    chosen = _choice_shapes(query, count, causal)
    batch, heads, query_len, head_dim = query.shape
    channels = padded_width(head_dim)
    size_of_tile = 64 if channels <= 128 else 32  # float32 means and queries in shared memory
    launch(
        choose_blocks_kernel,
        (-(-query_len // size_of_tile), batch * heads),
        *(query, positions, means, counts, chosen, float(sign), heads, heads // means.shape[1]),
        *(query_len, head_dim, means.shape[2], size, count, *query.stride()[:3]),
        CAUSAL=causal,
        PRECISION="tf32x3",
        ROWS=size_of_tile,
        BLOCKS=size_of_tile,
        PLACES=1 << count.bit_length(),
        CHANNELS=channels,
        num_warps=4 if channels <= 64 else 8,
    )
    return chosen


def best_blocks(
    query: Tensor, positions: Tensor, key: Tensor, call: Call, *, size: int, count: int
) -> Tensor:
    """The same choice as `block_choice.best_blocks` on a GPU: int32 (batch, heads, min(count,
    blocks), queries). Blocks after the first are in no order."""
    size = min(size, key.shape[2])
    with torch.no_grad():
        query, key = map(readable, (query, key))
        padding = call.key_padding_mask
        means, counts = _means(key, None if padding is None else padding.contiguous(), size)
        sign = (call.scale > 0) - (call.scale < 0)
        count = min(count, means.shape[2])
        return _choose(query, positions, means, counts, sign, size, count, call.causal)


@cached
def _first_codes(slab: int, blocks: int, device: torch.device) -> Tensor:
    return torch.arange(slab, dtype=torch.int32, device=device)[:, None] * (blocks + 1)


def listed(chosen: Tensor, key_len: int, size: int, call: Call) -> Gathered:
    """The items (query row, chosen block) of each head, sorted by block. `chosen` is as
    `best_blocks` returns."""
    batch, heads, _, query_len = chosen.shape
    size = min(size, key_len)
    blocks = -(-key_len // size)
    first = _first_codes(batch * heads, blocks, chosen.device)
    # An item without a block comes after all blocks.
    codes = chosen.view(batch * heads, -1)
    codes = torch.where(codes < 0, blocks, codes) + first
    ordered, order = codes.flatten().sort(stable=True)
    low = (ordered.view(batch * heads, -1) - first).mul_(size).clamp_(max=key_len)
    high = (low + size).clamp_(max=key_len)
    if call.causal:
        # Own blocks come first in a block, by position; other blocks end before the query.
        position = (order % query_len).add_(key_len - query_len + 1).view(batch * heads, -1)
        high = torch.minimum(high, position.to(torch.int32))
        high = torch.maximum(high, low)
    padding = call.key_padding_mask
    return Gathered(order, low, high, None, None if padding is None else padding.contiguous())
