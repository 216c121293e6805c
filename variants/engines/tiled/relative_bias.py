"""A bias by distance in the scores of tiles. The biases of a row for consecutive keys are
consecutive entries of the bias; those of the next row start one entry earlier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.engines.primitives.softmax_tile import Scratch


class KeyRuns(NamedTuple):
    """The keys in some slots of some tiles: runs of `width` consecutive keys. The first run begins
    at slot `start`; each run begins directly after the previous run.

    `ahead` is the index of the first key of a run minus the index of the first row of its tile:
    int64 (slab or 1, tiles, runs), or one number if there is one run with the same `ahead` in all
    tiles.
    """

    start: int
    width: int
    ahead: Tensor | int


class TileBias:
    """The bias that the heads of a slab add to scores.

    The score of row i and key j gets entry j - i + zero of `bias` (heads, entries). `bias` has
    `width` - 1 more entries on each side, because a run may begin before the first key and end
    after the last key. `own_heads` (slab,) are the heads of the slab.
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
        """Add gradients of scores (slab, tiles, rows, slots) to `total`, the gradient of `bias`."""
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
        """The bias of the scores at these runs, (slab, tiles or 1, runs, rows, width)."""
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
        """Indices into the flattened `bias`: `shifts` plus the entry for the first key of each run
        and the first row of its tile; int64 (slab, tiles or 1, runs, shifts). Rows and runs of
        padding may have any position, so they get any valid index."""
        first = runs.ahead + self.zero
        if isinstance(first, Tensor):
            shifts = first[..., None] + shifts
        else:
            shifts = (first + shifts)[None, None, None]
        heads = self.own_heads[:, None, None, None]
        return shifts.clamp(0, last) + heads * self.bias.shape[1]


def diagonal_sums(matrices: Tensor) -> Tensor:
    """Sums along diagonals: (..., rows, width) to (..., rows + width - 1). Entry
    column - row + rows - 1 is the sum of the elements with this value of column - row."""
    rows, width = matrices.shape[-2:]
    length = rows + width - 1
    # With rows that are one element longer, each row begins one column after the previous row.
    flat = pad(matrices, (rows - 1, 0, 0, 1)).flatten(-2)[..., : rows * (length + 1)]
    return flat.unflatten(-1, (rows, length + 1))[..., :length].sum(-2)


def _slots(scores: Tensor, runs: KeyRuns) -> Tensor:
    """The scores at these key runs: (slab, tiles, rows, runs, width)."""
    count = runs.ahead.shape[-1] if isinstance(runs.ahead, Tensor) else 1
    part = scores[..., runs.start : runs.start + count * runs.width]
    return part.unflatten(-1, (count, runs.width))
