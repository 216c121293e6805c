"""A `Pattern` as ranges of keys, for the kernels of a GPU."""

from __future__ import annotations

import numpy as np
import torch

from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached
from variants.engines.gpu.listed.key_ranges import KeyRanges, Table, Tiles, stacked, tiles


@cached
def tiles_of(pattern: Pattern, sizes: tuple[int, int], device: torch.device) -> Tiles:
    """The lists of all rows for tiles of some rows and keys, kept while the pattern is in use."""
    return tiles(ranges_of(pattern), *sizes, device)


def ranges_of(pattern: Pattern) -> KeyRanges:
    """The ranges of each block of rows: the band, the global keys and the random blocks."""
    size, key_len = pattern.block_size, pattern.key_len
    position = pattern.offset
    lead = position % size
    groups = -(-(lead + pattern.query_len) // size)
    own = position // size + np.arange(groups)
    first_row = own * size
    everything = np.zeros(groups, dtype=bool)
    if pattern.global_rows:
        # Groups of a pattern with blocks are either global or not: its ends are whole blocks.
        everything = (first_row >= 0) & (first_row < pattern.leading)
        everything |= first_row >= key_len - pattern.trailing
    first = np.where(everything, 0, (own - pattern.window) * size)
    end = np.where(everything, key_len, (own + pattern.window + 1) * size)
    parts: list[tuple[Table | int, Table | int]] = [(first, end)]
    if pattern.leading:
        parts.append((0, pattern.leading))
    if pattern.trailing:
        parts.append((key_len - pattern.trailing, key_len))
    bounds = stacked(parts, key_len)
    if pattern.random_blocks is not None:
        table = pattern.random_blocks.cpu().numpy()
        drawn = table[:, np.clip(own, 0, table.shape[1] - 1)]
        drawn = np.where((own < 0)[:, None], -1, drawn)
        random = np.stack([drawn * size, np.where(drawn < 0, 0, (drawn + 1) * size)], -1)
        random = np.clip(random, 0, key_len)
        shape = (len(table), *bounds.shape[1:])
        bounds = np.concatenate([np.broadcast_to(bounds, shape), random], 2)
    return KeyRanges(
        bounds,
        pattern.query_len,
        key_len,
        group_rows=size,
        lead=lead,
        offset=pattern.offset,
        causal=pattern.causal,
    )
