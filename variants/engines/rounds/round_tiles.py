"""A round cut into tiles: the query rows that see the same chunks of keys."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class RoundTiles(NamedTuple):
    """A round cut into tiles; rows are counted over the slab, -1 is an empty slot."""

    slots: Tensor  # (chunks, chunk) key rows
    chunks: Tensor  # (tiles, chunks) which a tile sees; hashed, the one before and its own
    rows: Tensor  # (tiles, rows) query rows
    key_place: Tensor  # (slab·key_len) where each key stands in `slots`
    partial: list[bool] | None  # whether some key slot of a tile is empty; None if not known

    @property
    def scores(self) -> int:
        """Of one tile."""
        return self.rows.shape[1] * self.chunks.shape[1] * self.slots.shape[1]

    def filled(self, least: int) -> RoundTiles:
        """With tiles without a row, so that there are `least` of them."""
        missing = max(0, least - len(self.rows))
        return self._replace(
            chunks=pad(self.chunks, (0, 0, 0, missing)),
            rows=pad(self.rows, (0, 0, 0, missing), value=-1),
            partial=self.partial and self.partial + [True] * missing,
        )


def grouped(group: Tensor, rows: Tensor, groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Cut `rows`, sorted by their `group`, of which there are `groups`, into tiles of one group.

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
    """Indices that sort `codes` (items), all below `limit`; equal ones by index."""
    if codes.device.type == "cpu" and limit <= 1 << 16:
        # NumPy sorts sixteen-bit numbers digit by digit, some fifteen times faster than torch.
        return torch.from_numpy(codes.numpy().astype("uint16").argsort(kind="stable"))
    return codes.argsort(stable=True)
