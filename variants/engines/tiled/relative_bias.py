"""A bias by distance in the scores of tiles. What a row adds to consecutive keys stands together in
the bias, one entry earlier than what the row before it adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.engines.primitives.softmax_tile import Scratch


class KeyRuns(NamedTuple):
    """Where some slots of some tiles stand: runs of `width` consecutive keys, one run behind the
    other from slot `start` on.

    `ahead` is the number of a run's first key less that of its tile's first row; int64
    (slab or 1, tiles, runs), or a number for one run that stands alike in all tiles.
    """

    start: int
    width: int
    ahead: Tensor | int


class TileBias:
    """What the heads of a slab add to scores.

    `bias` (heads, entries) has what key j adds to the score of row i in entry j - i + zero; with
    `width` - 1 entries to spare on either side, as a run may begin before the first key and end
    behind the last. `own_heads` (slab,) are the heads of the slab.
    """

    def __init__(self, bias: Tensor, own_heads: Tensor, zero: int, scratch: Scratch) -> None:
        self.bias, self.own_heads, self.zero, self.scratch = bias, own_heads, zero, scratch
        self._kept: tuple[int, int, Tensor] | None = None

    def add(self, scores: Tensor, key_runs: Iterator[KeyRuns]) -> None:
        """Add the bias to scores (slab, tiles, rows, slots)."""
        for runs in key_runs:
            matrix = self._matrix(runs, scores.shape[2])
            _slots(scores, runs).add_(matrix.transpose(2, 3))

    def add_gradient(self, grads: Tensor, key_runs: Iterator[KeyRuns], total: Tensor) -> None:
        """Add gradients of scores (slab, tiles, rows, slots) onto that of `bias`."""
        rows = grads.shape[2]
        for runs in key_runs:
            part = _slots(grads, runs)
            if not isinstance(runs.ahead, Tensor):
                part = part.sum(1, keepdim=True, dtype=total.dtype)
            sums = diagonal_sums(part.transpose(2, 3).to(total.dtype))
            shifts = torch.arange(1 - rows, runs.width, device=grads.device)
            entries = self._entries(runs, shifts, total.shape[1] - 1)
            total.view(-1).index_add_(0, entries.flatten(), sums.flatten())

    def _matrix(self, runs: KeyRuns, rows: int) -> Tensor:
        """What is added to the scores, (slab, tiles or 1, runs, rows, width)."""
        _, width, ahead = runs
        alike = not isinstance(ahead, Tensor)
        if alike and self._kept and self._kept[:2] == (width, ahead):
            return self._kept[2]
        shifts = -torch.arange(rows, device=self.bias.device)
        entries = self._entries(runs, shifts, self.bias.shape[1] - width)
        name = "bias" if alike else "bias of runs"
        matrix = self.scratch(name, (*entries.shape, width), self.bias.dtype)
        shifted = self.bias.view(-1).unfold(0, width, 1)
        torch.index_select(shifted, 0, entries.flatten(), out=matrix.view(-1, width))
        if not isinstance(ahead, Tensor):
            self._kept = width, ahead, matrix
        return matrix

    def _entries(self, runs: KeyRuns, shifts: Tensor, last: int) -> Tensor:
        """Entries of `bias`, laid out flat, that stand `shifts` behind those of each run's first
        key and its tile's first row: int64 (slab, tiles or 1, runs, shifts). Rows and runs of
        padding, which may stand anywhere, are given any."""
        first = runs.ahead + self.zero
        if isinstance(first, Tensor):
            shifts = first[..., None] + shifts
        else:
            shifts = (first + shifts)[None, None, None]
        heads = self.own_heads[:, None, None, None]
        return shifts.clamp(0, last) + heads * self.bias.shape[1]


def diagonal_sums(matrices: Tensor) -> Tensor:
    """Sums over equal distances: (..., rows, width) to (..., rows + width - 1), of which entry
    column - row + rows - 1 is the sum of a diagonal."""
    rows, width = matrices.shape[-2:]
    length = rows + width - 1
    # Read with rows longer by one, each row begins one column later than the one before.
    flat = pad(matrices, (rows - 1, 0, 0, 1)).flatten(-2)[..., : rows * (length + 1)]
    return flat.unflatten(-1, (rows, length + 1))[..., :length].sum(-2)


def _slots(scores: Tensor, runs: KeyRuns) -> Tensor:
    """The scores at these key runs: (slab, tiles, rows, runs, width)."""
    count = runs.ahead.shape[-1] if isinstance(runs.ahead, Tensor) else 1
    part = scores[..., runs.start : runs.start + count * runs.width]
    return part.unflatten(-1, (count, runs.width))
