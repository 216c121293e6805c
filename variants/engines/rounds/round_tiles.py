"""A round cut into tiles: the query rows that see the same chunks of keys."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.device import on_gpu


class RoundTiles(NamedTuple):
    """The tiles of a round. Rows are counted over the slab; -1 is an empty slot."""

    slots: Tensor  # (chunks, chunk) key rows
    chunks: Tensor  # (tiles, chunks) chunks that a tile sees; with LSH the previous and its own
    rows: Tensor  # (tiles, rows) query rows
    key_place: Tensor  # (slab·key_len) index of each key in `slots`
    partial: list[bool] | None  # whether a tile has an empty key slot; None if not known

    @property
    def scores(self) -> int:
        """Number of scores of one tile."""
        return self.rows.shape[1] * self.chunks.shape[1] * self.slots.shape[1]

    def filled(self, least: int) -> RoundTiles:
        """These tiles, followed by tiles without rows if there are fewer than `least`."""
        missing = max(0, least - len(self.rows))
        return self._replace(
            chunks=pad(self.chunks, (0, 0, 0, missing)),
            rows=pad(self.rows, (0, 0, 0, missing), value=-1),
            partial=self.partial and self.partial + [True] * missing,
        )


def grouped(group: Tensor, rows: Tensor, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Cut `rows` into tiles of at most `size` rows of one group. `rows` are sorted by their
    `group`; there are `groups` groups.

    Returns:
        (tiles, size) rows, -1 in an empty place, and the group of each tile.
    """
    counts = torch.bincount(group, minlength=groups)
    each = (counts + size - 1) // size
    stops = each.cumsum(0)
    tiles = int(stops[-1])
    place = torch.arange(len(group), device=group.device)
    place += ((stops - each) * size - (counts.cumsum(0) - counts))[group]
    table = torch.full((tiles * size,), -1, dtype=torch.int64, device=group.device)
    table.index_copy_(0, place, rows)
    return table.view(tiles, size), torch.repeat_interleave(each)


def stable_order(codes: Tensor, limit: int) -> Tensor:
    """Indices that sort `codes` (items), all below `limit`; equal codes are sorted by index."""
    if not on_gpu(codes.device) and limit <= 1 << 16:
        # NumPy sorts 16-bit numbers with radix sort, about fifteen times faster than torch.
        return torch.from_numpy(codes.numpy().astype("uint16").argsort(kind="stable"))
    return codes.argsort(stable=True)
