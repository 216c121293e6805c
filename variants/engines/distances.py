"""A bias by distance in the scores of tiles: what a run of consecutive keys needs of it against a
tile of consecutive rows is again a bias by distance, a short one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Stretch(NamedTuple):
    """Where some slots of some tiles stand: runs of `width` consecutive keys, one run behind the
    other from slot `start` on.

    `ahead` is the number of a run's first key less that of its tile's first row; int64
    (slab or 1, tiles, runs), or a number for one run that stands alike in all tiles.
    """

    start: int
    width: int
    ahead: Tensor | int


class Distances:
    """The bias of a slab's heads; `bias` (heads, query_len + key_len - 1) is as in
    `Attention.__call__`, `own_heads` (slab,) are the heads of the slab."""

    def __init__(self, bias: Tensor, own_heads: Tensor, query_len: int) -> None:
        self.bias, self.own_heads, self.query_len = bias, own_heads, query_len
        self._key: tuple[int, int, int] | None = None
        self._kept = bias

    def add(self, scores: Tensor, stretches: Iterator[Stretch]) -> None:
        """Add the bias to scores (slab, tiles, rows, slots)."""
        for stretch in stretches:
            _slots(scores, stretch).add_(self._matrix(stretch, scores).transpose(2, 3))

    def add_gradient(self, grads: Tensor, stretches: Iterator[Stretch], total: Tensor) -> None:
        """Add gradients of scores (slab, tiles, rows, slots) onto that of the whole bias."""
        rows = grads.shape[2]
        for stretch in stretches:
            part = _slots(grads, stretch)
            if not isinstance(stretch.ahead, Tensor):
                part = part.sum(1, keepdim=True, dtype=total.dtype)
            sums = diagonal_sums(part.transpose(2, 3).to(total.dtype))
            total.view(-1).index_add_(0, self._index(stretch, rows).flatten(), sums.flatten())

    def _matrix(self, stretch: Stretch, scores: Tensor) -> Tensor:
        """What is added to the scores, (slab, tiles or 1, runs, rows, width)."""
        rows = scores.shape[2]
        key = None
        if not isinstance(stretch.ahead, Tensor):
            key = stretch.ahead, stretch.width, rows
            if key == self._key:
                return self._kept
        # A row more is a distance less.
        short = self.bias.flatten()[self._index(stretch, rows)].to(scores.dtype)
        matrix = short.unfold(-1, stretch.width, 1).flip(-2)
        if key is not None:
            self._key, self._kept = key, matrix
        return matrix

    def _index(self, stretch: Stretch, rows: int) -> Tensor:
        """Where the short biases stand in the whole one of all heads, laid out flat: int64 (slab,
        tiles or 1, runs, rows + width - 1). Slots and rows of padding may stand outside it, and
        take any entry of the head."""
        length, device = self.bias.shape[1], self.bias.device
        first = stretch.ahead + self.query_len - rows
        if not isinstance(first, Tensor):
            first = torch.full((1, 1, 1), first, device=device)
        entries = first[..., None] + torch.arange(rows + stretch.width - 1, device=device)
        return entries.clamp(0, length - 1) + self.own_heads[:, None, None, None] * length


def diagonal_sums(matrices: Tensor) -> Tensor:
    """Sums over equal distances: (..., rows, width) to (..., rows + width - 1), of which entry
    column - row + rows - 1 is the sum of a diagonal."""
    rows, width = matrices.shape[-2:]
    length = rows + width - 1
    # Read with rows longer by one, each row begins one column later than the one before.
    flat = pad(matrices, (rows - 1, 0, 0, 1)).flatten(-2)[..., : rows * (length + 1)]
    return flat.unflatten(-1, (rows, length + 1))[..., :length].sum(-2)


def _slots(scores: Tensor, stretch: Stretch) -> Tensor:
    """Those of a stretch: (slab, tiles, rows, runs, width)."""
    runs = stretch.ahead.shape[-1] if isinstance(stretch.ahead, Tensor) else 1
    part = scores[..., stretch.start : stretch.start + runs * stretch.width]
    return part.unflatten(-1, (runs, stretch.width))
