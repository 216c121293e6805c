"""Softmax attention over all keys with padding, a distance bias or unlike lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.call import Call
from variants.contract.tensor_cache import cached
from variants.engines.gpu.listed import block_softmax
from variants.engines.gpu.listed.key_ranges import KeyRanges, Tiles, stacked, tiles
from variants.engines.gpu.tile_widths import tile_sizes
from variants.engines.tiled.tile_loop import hidden_keys


def attend(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
    """Full attention by the kernels of `block_softmax`; shapes as in `Attention.__call__`."""
    rows, keys = tile_sizes(query.shape[-1], query.dtype)
    # Every row sees about the same keys, so larger tiles read no key in vain.
    sizes = (2 * rows if rows == keys == 64 else rows), keys
    return block_softmax.run(
        query,
        key,
        value,
        _tiles(query.shape[2], key.shape[2], call.causal, sizes, query.device),
        scale=call.scale,
        key_bias=hidden_keys(call.key_padding_mask, query.dtype),
        distance_bias=call.distance_bias,
    )


@cached
def _tiles(
    query_len: int, key_len: int, causal: bool, sizes: tuple[int, int], device: torch.device
) -> Tiles:
    ranges = KeyRanges(
        stacked([(0, key_len)], key_len),
        query_len,
        key_len,
        group_rows=query_len,
        offset=key_len - query_len,
        causal=causal,
    )
    return tiles(ranges, *sizes, device)
