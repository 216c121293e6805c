"""TileLists of blocks within a distance that is known only on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.tensor_cache import cached
from variants.engines.gpu.listed.key_ranges import TileLists, Tiles


def tiles_within(reach: Tensor, query_len: int, key_len: int, *, size: int, causal: bool) -> Tiles:
    """The blocks of `size` keys at most `reach` positions away from a tile of `size` rows.
    `reach` is int32 (heads,).

    No score is hidden, and every block is listed as partly visible: the caller adds a bias that
    hides the other keys, also later keys if `causal`. The lists of a head are ranges of blocks, so
    `blocks` counts them.
    """
    tables = _tables(query_len, key_len, size, reach.device)
    reach = reach[:, None]
    forward = 0 if causal else reach
    # Rows with positions p see keys p - reach to p + forward; key j is seen from j - forward to
    # j + reach.
    by_query = _ranges(
        tables.rows, tables.keys, tables.row_first, tables.row_last, reach, forward, size
    )
    by_key = _ranges(
        tables.keys, tables.rows, tables.key_first, tables.key_last, forward, reach, size
    )
    return Tiles(size, size, tables.bounds, by_query, by_key, (0, 1 << 30, 0, 1, 0))


class _Tables(NamedTuple):
    """Tables that do not depend on the distance; int32."""

    rows: Tensor  # numbers of the tiles of rows
    keys: Tensor  # numbers of the blocks of keys
    row_first: Tensor  # position of the first row of a tile, in keys
    row_last: Tensor
    key_first: Tensor  # position of the first key of a block, in rows
    key_last: Tensor
    bounds: Tensor  # (1, 1, 0, 2): no ranges


@cached
def _tables(query_len: int, key_len: int, size: int, device: torch.device) -> _Tables:
    with torch.device("cpu"):
        offset = key_len - query_len
        rows = torch.arange(-(-query_len // size), dtype=torch.int32)
        keys = torch.arange(-(-key_len // size), dtype=torch.int32)
        tables = (
            rows,
            keys,
            rows * size + offset,
            ((rows + 1) * size).clamp(max=query_len) - 1 + offset,
            keys * size - offset,
            ((keys + 1) * size).clamp(max=key_len) - 1 - offset,
            torch.zeros(1, 1, 0, 2, dtype=torch.int32),
        )
    return _Tables(*(table.to(device) for table in tables))


def _ranges(
    tiles: Tensor,
    blocks: Tensor,
    first: Tensor,
    last: Tensor,
    before: Tensor | int,
    after: Tensor | int,
    size: int,
) -> TileLists:
    """For each tile the blocks from `first` - `before` to `last` + `after`. Tiles and blocks have
    the same size."""
    start = torch.div(first - before, size, rounding_mode="floor").clamp_(0, len(blocks))
    stop = torch.div(last + after + size, size, rounding_mode="floor").clamp_(0, len(blocks))
    start, stop = torch.broadcast_tensors(start, stop)
    return TileLists(tiles, torch.stack([start, stop, stop], dim=-1).contiguous(), blocks)
