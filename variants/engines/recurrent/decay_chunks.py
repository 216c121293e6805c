"""Chunks of rows, powers of a decay within a chunk, and a state that is updated chunk by chunk.

`retention` and `delta_rule` use these classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from variants.engines.primitives.head_slabs import Slab, budget, slabs
from variants.engines.primitives.precision import Precision, product
from variants.engines.primitives.row_slices import row_slices
from variants.engines.primitives.softmax_tile import Scratch

CHUNKS = 16  # most chunks of a head that are processed together


class Chunks(NamedTuple):
    """Consecutive chunks of `size` rows each, from position `start` to `stop` of `total`."""

    start: int
    stop: int
    size: int
    total: int

    def hold(self, tensor: Tensor) -> bool:
        """Whether a tensor (slab, rows, channels) has rows in these chunks. The last row of the
        tensor is at the last position."""
        return self.start >= self.total - tensor.shape[1]

    def of(self, tensor: Tensor) -> Tensor:
        """The rows of such a tensor in these chunks, as a view (chunks, slab, size, channels)."""
        missing = self.total - tensor.shape[1]
        rows = tensor[:, self.start - missing : self.stop - missing]
        return rows.unflatten(1, (-1, self.size)).transpose(0, 1)

    def working(self, tensor: Tensor, name: str, dtype: torch.dtype, scratch: Scratch) -> Tensor:
        """`of` in contiguous rows of `dtype`, copied only if necessary."""
        found = self.of(tensor)
        if found.dtype is dtype and found.is_contiguous():
            return found
        return scratch.copy(name, found, dtype)


class Decay(NamedTuple):
    """Powers of each head's decay in a chunk. All exponents are at least 0, so that no number
    leaves the range of the dtype."""

    within: Tensor  # (slab, rows, rows): from row to visible row, 0 if hidden; times `factor`
    read: Tensor  # (slab, rows, 1): from the state before the chunk to each row; times `factor`
    write: Tensor  # (slab, rows, 1): from each row to the state after the chunk
    whole: Tensor  # (slab, 1, 1): from state to state

    @classmethod
    def of(
        cls, log_decay: Tensor, size: int, dtype: torch.dtype, factor: Tensor | float, reverse: bool
    ) -> Decay:
        """From logarithms (slab,). In reverse, a row sees itself and later rows."""
        logs = log_decay.double()[:, None, None]
        steps = torch.arange(size, dtype=torch.float64, device=logs.device)[:, None]
        distance = steps - steps.T
        within = (logs * distance.clamp(min=0)).exp().tril()
        read, write = (logs * (steps + 1)).exp(), (logs * (size - 1 - steps)).exp()
        if reverse:
            within, read, write = within.mT.contiguous(), read.flip(1), write.flip(1)
        whole = (logs * size).exp()
        return cls(
            (within * factor).to(dtype), (read * factor).to(dtype), write.to(dtype), whole.to(dtype)
        )


class States:
    """The state of a slab, (slab, channels of keys, channels of values), which chunks update one
    after the other: from first to last, or in `reverse` from last to first."""

    def __init__(
        self,
        log_decay: Tensor,
        lengths: tuple[int, int],
        channels: tuple[int, int],
        dtype: torch.dtype,
        scratch: Scratch,
        size: int,
        factor: Tensor | float = 1.0,
        *,
        reverse: bool = False,
    ) -> None:
        """
        Args:
            log_decay: (slab,).
            lengths: numbers of queries and keys, not more queries than keys.
            channels: of keys and of values.
            size: rows of a chunk.
            factor: multiplies all sums that are read; a number, or (slab, 1, 1).
        """
        self.log_decay, self.lengths, self.channels = log_decay, lengths, channels
        self.dtype, self.scratch = dtype, scratch
        self.size, self.factor, self.reverse = size, factor, reverse
        self.precision = Precision(dtype, dtype)
        self.state = torch.zeros(len(log_decay), *channels, dtype=dtype, device=log_decay.device)
        self._decays: dict[int, Decay] = {}

    def decay(self, size: int) -> Decay:
        if size not in self._decays:
            self._decays[size] = Decay.of(
                self.log_decay, size, self.dtype, self.factor, self.reverse
            )
        return self._decays[size]

    def chunks(self) -> Iterator[tuple[Chunks, Decay]]:
        """Chunks of all positions in their order; the first query begins a new chunk."""
        tile = len(self.log_decay) * self.size * max(self.size, *self.channels)
        queries, total = self.lengths
        inputs = len(self.log_decay) * total * self.channels[0]
        room = _room(self.log_decay.device, self.dtype, inputs)
        step = self.size * min(max(1, room // tile), CHUNKS)
        found = []
        for first, last in ((0, total - queries), (total - queries, total)):
            whole = first + (last - first) // self.size * self.size
            found += [(part, self.size) for part in row_slices(first, whole, step)]
            found += [(part, last - whole) for part in row_slices(whole, last, self.size)]
        for part, size in reversed(found) if self.reverse else found:
            yield Chunks(part.start, part.stop, size, total), self.decay(size)

    def ahead(self, keys: Tensor, decay: Decay) -> Tensor:
        """Keys, decayed to the end of their chunk, in a buffer."""
        return torch.mul(keys, decay.write, out=self.scratch("ahead", keys.shape, self.dtype))

    def shares(self, ahead: Tensor, values: Tensor) -> Tensor:
        """The terms that chunks add to the state (chunks, slab, ...), in a buffer."""
        shares = self.scratch("shares", (*ahead.shape[:2], *self.channels), self.dtype)
        return product(ahead.mT, values, self.precision, shares)

    def carry(self, shares: Tensor, decay: Decay, moves: Tensor | None = None) -> Tensor:
        """States before each chunk (chunks, slab, ...), in a buffer. A chunk multiplies the state
        by the decay, or by its matrix in `moves`, and adds its share."""
        count = len(shares)
        states = self.scratch("states", (count + 1, *self.state.shape), self.dtype)
        order = range(count - 1, -1, -1) if self.reverse else range(count)
        before, after = (1, 0) if self.reverse else (0, 1)
        states[order[0] + before].copy_(self.state)
        for chunk in order:
            found, left = states[chunk + before], states[chunk + after]
            if moves is None:
                torch.addcmul(shares[chunk], found, decay.whole, out=left)
            else:
                torch.baddbmm(shares[chunk], moves[chunk], found, out=left)
        self.state = states[order[-1] + after]
        return states[before : before + count]

    def scores(self, left: Tensor, right: Tensor, decay: Decay) -> Tensor:
        """Decayed products of the rows of each chunk (chunks, slab, rows, rows), in a buffer."""
        shape = (*left.shape[:-1], right.shape[-2])
        scores = self.scratch("scores", shape, self.dtype)
        return product(left, right.mT, self.precision, scores).mul_(decay.within)

    def past(self, asked: Tensor, before: Tensor, decay: Decay) -> Tensor:
        """The sums that rows read from the state before their chunk, in a buffer."""
        shape = (*asked.shape[:-1], self.channels[1])
        past = self.scratch("past", shape, self.dtype)
        return product(asked, before, self.precision, past).mul_(decay.read)

    def sums(
        self, asked: Tensor, keys: Tensor, values: Tensor, before: Tensor, decay: Decay
    ) -> Tensor:
        """The sums that rows read from that state and from their own chunk, in a buffer."""
        sums = self.past(asked, before, decay)
        weights = self.scores(asked, keys, decay)
        own = self.scratch("own", sums.shape, self.dtype)
        return sums.add_(product(weights, values, self.precision, own))


def heads_together(query: Tensor, key: Tensor, size: int, dtype: torch.dtype) -> Iterator[Slab]:
    """Slabs of heads that pass through the chunks together. A slab is as large as the budget for
    some chunks of each head allows."""
    rows = min(size * CHUNKS, key.shape[2])
    room = _room(query.device, dtype, query.numel())
    return slabs(query, key, room // (rows * max(size, query.shape[3])))


def _room(device: torch.device, dtype: torch.dtype, inputs: int) -> int:
    return budget(device, dtype, inputs) // 2
