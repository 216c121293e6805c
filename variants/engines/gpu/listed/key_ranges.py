"""The keys that each query row sees, as ranges of keys, and the blocks of keys that a tile of rows
reads. The tables are made on the CPU with NumPy, once for each shape, and kept on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Table = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KeyRanges:
    """A row sees the keys of all ranges of its group of rows.

    bounds: first key and end of each range, (heads or 1, groups, ranges, 2). An end that is not
        larger than the first key makes an empty range.
    query_len, key_len: number of rows and of keys.
    group_rows: row i is in group (i + lead) // group_rows.
    causal: hide a key at a later position than the row. Row i has position i + offset, key j has
        position j.
    tokens: the keys from this number on are not tokens, so `causal` does not hide them.
    """

    bounds: Table
    query_len: int
    key_len: int
    group_rows: int = 1
    lead: int = 0
    offset: int = 0
    causal: bool = False
    tokens: int = 1 << 30


def stacked(parts: Sequence[tuple[Table | int, Table | int]], key_len: int) -> Table:
    """Bounds (1, groups, ranges, 2) of ranges, each with its first keys and ends for all groups.
    Ranges are cut to the keys 0 to `key_len`."""
    ends = np.broadcast_arrays(*(end for part in parts for end in part))
    return np.clip(np.stack(ends, -1), 0, key_len).reshape(1, -1, len(parts), 2)


class TileLists(NamedTuple):
    """The blocks that tiles read.

    order: the tiles, int32 (tiles,), long lists first, so that they do not run alone at the end.
    ends: start, middle and stop in `blocks`, int32 (heads or 1, tiles, 3). Partly visible blocks
        are before the middle, fully visible blocks after it.
    blocks: numbers of blocks, int32.
    """

    order: Tensor
    ends: Tensor
    blocks: Tensor


class Tiles(NamedTuple):
    """Everything that the kernels read besides the inputs."""

    rows: int  # query rows of a tile
    keys: int  # keys of a block
    bounds: Tensor  # int32 (heads or 1, groups, ranges, 2)
    by_query: TileLists
    by_key: TileLists  # for each block of keys the tiles of rows that see it
    numbers: tuple[int, ...]  # offset, tokens, lead, group_rows, causal


def tiles(ranges: KeyRanges, rows: int, keys: int, device: torch.device) -> Tiles:
    """The lists of `ranges` for tiles of `rows` rows and blocks of `keys` keys, on `device`."""
    line, block, whole = _pairs(ranges, rows, keys)
    tile_count, block_count = -(-ranges.query_len // rows), -(-ranges.key_len // keys)
    heads = len(ranges.bounds)
    head, tile = line // tile_count, line % tile_count
    numbers = ranges.offset, ranges.tokens, ranges.lead, ranges.group_rows, int(ranges.causal)
    return Tiles(
        rows,
        keys,
        _on(ranges.bounds, device),
        _lists(head, tile, block, whole, heads, tile_count, device),
        _lists(head, block, tile, whole, heads, block_count, device),
        numbers,
    )


def _pairs(ranges: KeyRanges, rows: int, keys: int) -> tuple[Table, Table, NDArray[np.bool_]]:
    """All pairs of a tile and a block that it reads, sorted: the number of the tile, counted over
    the heads, the number of the block, and whether all rows of the tile see all its keys."""
    tile_count, group_rows = -(-ranges.query_len // rows), ranges.group_rows
    # At least one row of each group in the tile.
    sampled = np.unique(np.minimum(np.arange(0, rows + group_rows, group_rows), rows - 1))
    row = np.minimum(np.arange(tile_count)[:, None] * rows + sampled, ranges.query_len - 1)
    group = (row + ranges.lead) // group_rows
    bounds = ranges.bounds[:, group]
    first, stop = bounds[..., 0], np.minimum(bounds[..., 1], ranges.key_len)
    start_row = np.arange(tile_count) * rows
    last_row = np.minimum(start_row + rows, ranges.query_len) - 1
    full_stop = stop
    if ranges.causal:
        # The last row of a group in the tile sees most.
        last = (group + 1) * group_rows - ranges.lead - 1
        last = np.minimum(last, last_row[:, None]) + ranges.offset
        of_tokens = first < ranges.tokens
        stop = np.where(of_tokens, np.minimum(stop, last[..., None] + 1), stop)
        earliest = (start_row + ranges.offset)[:, None, None]
        full_stop = np.where(of_tokens, np.minimum(full_stop, earliest + 1), full_stop)
    seen = stop > first
    # Neighbouring groups whose ranges overlap are one range.
    heads, _, samples, count = first.shape
    low = np.where(seen, first, np.iinfo(np.int64).max).min(2, keepdims=True)
    high = np.where(seen, stop, -1).max(2, keepdims=True)
    touches = (first[:, :, 1:] <= stop[:, :, :-1]) & (first[:, :, :-1] <= stop[:, :, 1:])
    # A group without keys may stand before or after the others, but not between them.
    begun = np.logical_or.accumulate(seen, 2)[:, :, :-1]
    touches &= seen[:, :, 1:] & seen[:, :, :-1]
    touches |= ~seen[:, :, 1:] | ~begun
    joined = touches.all(2, keepdims=True)
    empty = ~seen.any(2, keepdims=True)
    alone = np.zeros_like(seen)
    alone[:, :, 0] = True
    first_key = np.where(joined, np.where(empty, 0, low), first)
    end = np.where(joined, np.where(alone & ~empty, high, 0), np.where(seen, stop, 0))
    first_block, end_block = first_key // keys, -(-end // keys)
    number = np.maximum(end_block - first_block, 0).reshape(heads * tile_count, -1)
    item = np.repeat(np.arange(number.size), number.ravel())
    inside = np.arange(len(item)) - (number.cumsum() - number.ravel())[item]
    line = item // (samples * count)
    blocks = -(-ranges.key_len // keys)
    pair = np.unique(line * blocks + first_block.reshape(-1)[item] + inside)
    line, block = pair // blocks, pair % blocks
    every_first = first.max(2).reshape(-1, count)[line]
    every_stop = full_stop.min(2).reshape(-1, count)[line]
    whole = (every_first <= block[:, None] * keys) & ((block[:, None] + 1) * keys <= every_stop)
    return line, block, whole.any(-1)


def _lists(
    head: Table,
    tile: Table,
    block: Table,
    whole: NDArray[np.bool_],
    heads: int,
    tile_count: int,
    device: torch.device,
) -> TileLists:
    line = head * tile_count + tile
    order = np.lexsort((block, whole, line))
    count = np.bincount(line, minlength=heads * tile_count)
    stop = count.cumsum()
    middle = stop - np.bincount(line[whole], minlength=heads * tile_count)
    ends = np.stack([stop - count, middle, stop], -1).reshape(heads, tile_count, 3)
    longest = count.reshape(heads, tile_count).max(0)
    return TileLists(
        _on(np.argsort(-longest, kind="stable"), device),
        _on(ends, device),
        _on(block[order], device),
    )


def _on(table: Table, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table, dtype=np.int32)).to(device)
