"""Chooses the blocks of keys that a query sees, by the means of the keys, and makes the rounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.call import Call
from variants.contract.device import on_gpu
from variants.engines.primitives import head_slabs
from variants.engines.primitives.softmax_tile import Scratch
from variants.engines.rounds.merge_rounds import Round, Rounds
from variants.engines.rounds.round_tiles import RoundTiles, grouped, stable_order

ROWS = 64  # most query rows of a tile


def best_blocks(
    query: Tensor,
    positions: Tensor,
    key: Tensor,
    call: Call,
    *,
    size: int,
    count: int,
) -> Tensor:
    """Numbers of the blocks of `size` keys that queries see, int64 (batch, heads, min(count,
    blocks), queries), -1 for no block. The first is the block that contains the position of the
    query, if any; then follow the blocks with the highest scores, the lower number first if scores
    are equal.

    A score is the product of a query (batch, heads, queries, head_dim) with the mean of the keys of
    a block that are not padding. Queries and keys are cast to float32, sums are in float64, and
    scores are rounded to float32.
    """
    size = min(size, key.shape[2])
    sign = (call.scale > 0) - (call.scale < 0)
    scratch = Scratch(query.device)
    with torch.no_grad():
        means, hollow = _means(key, size, call.key_padding_mask, scratch)
        blocks = means.shape[2]
        own = positions.div(size, rounding_mode="floor")
        numbers = torch.arange(blocks, device=positions.device)[:, None]
        shape = (*query.shape[:2], min(count, blocks), len(positions))
        chosen = torch.empty(shape, dtype=torch.int64, device=query.device)
        room = head_slabs.budget(query.device, torch.float64, query.numel())
        step = max(1, room // blocks)
        for slab in head_slabs.slabs(query, key, room // (len(positions) * blocks)):
            hidden = slab.sequences(hollow, query.shape[1])
            for start in range(0, len(positions), step):
                part = slice(start, start + step)
                asked = slab.queries(query)[:, part].float()
                asked = scratch.copy("asked", asked, torch.float64, sign)
                wide = scratch("wide", (len(asked), blocks, asked.shape[1]), torch.float64)
                torch.bmm(slab.keys(means), asked.mT, out=wide)
                scores = scratch.copy("scores", wide, torch.float32)
                if hidden is not None:
                    scores.masked_fill_(hidden[..., None], -torch.inf)
                if call.causal:
                    scores.masked_fill_(numbers > own[part], -torch.inf)
                scores.masked_fill_(numbers == own[part], torch.inf)
                _highest(scores, slab.queries(chosen)[..., part], scratch)
    return chosen


def _means(
    key: Tensor, size: int, padding: Tensor | None, scratch: Scratch
) -> tuple[Tensor, Tensor | None]:
    """Means of the blocks' keys, float64 (batch, kv_heads, blocks, head_dim), and bool (batch,
    blocks), True for a block of padding only; None without padding. Padded keys are already 0."""
    batch, kv_heads, key_len, head_dim = key.shape
    whole = key_len // size
    blocks = -(-key_len // size)
    shape = (batch, kv_heads, blocks, head_dim)
    means = torch.empty(shape, dtype=torch.float64, device=key.device)
    room = head_slabs.budget(key.device, torch.float64, key.numel())
    for slab in head_slabs.slabs(key, key, room // (key_len * head_dim)):
        keys = scratch.copy("keys", slab.queries(key).float(), torch.float64)
        sums = slab.queries(means)
        torch.sum(keys[:, : whole * size].unflatten(1, (whole, size)), 2, out=sums[:, :whole])
        if whole < blocks:
            torch.sum(keys[:, whole * size :], 1, out=sums[:, whole])
    shown = torch.ones(1, key_len, device=key.device) if padding is None else ~padding
    counts = pad(shown, (0, blocks * size - key_len)).unflatten(1, (blocks, size)).sum(2)
    means /= counts.clamp(min=1)[:, None, :, None]
    return means, None if padding is None else counts == 0


def _highest(scores: Tensor, chosen: Tensor, scratch: Scratch) -> None:
    """Fill `chosen` (slab, count, rows) with the blocks of the highest scores (slab, blocks, rows):
    the lower number first if scores are equal, and -1 if a score is -inf. Overwrites `scores`.

    Maxima and comparisons are used, because a search for indices takes several times as long.
    """
    blocks = scores.shape[1]
    countdown = torch.arange(blocks, 0, -1, dtype=scores.dtype, device=scores.device)[:, None]
    for turn in range(chosen.shape[1]):
        highest = scores.amax(1, keepdim=True)
        there = scratch("there", scores.shape, scores.dtype)
        torch.eq(scores, highest, out=there).mul_(countdown)
        # A row of NaN has no highest score, but must not raise an error.
        index = (blocks - there.amax(1, keepdim=True)).clamp_(max=blocks - 1).long()
        scores.scatter_(1, index, -torch.inf)
        chosen[:, turn] = index.masked_fill_(highest == -torch.inf, -1)[:, 0]


@dataclass(frozen=True, eq=False)
class ChosenRounds(Rounds):
    """In round n, each query sees the n-th of its chosen blocks."""

    chosen: Tensor  # as `best_blocks` returns
    key_len: int
    size: int
    causal: bool
    key_padding_mask: Tensor | None

    def __len__(self) -> int:
        return self.chosen.shape[2]

    def __getitem__(self, turn: int) -> Round:
        slots, key_place, hollow = self._keys
        chosen = self.chosen[:, :, turn].flatten(0, 1)
        blocks = len(slots) // len(chosen)
        first = blocks * torch.arange(len(chosen), device=chosen.device)[:, None]
        codes = torch.where(chosen < 0, len(slots), chosen + first).flatten()
        order = stable_order(codes, len(slots) + 1)
        asked = int((codes < len(slots)).sum())
        rows = order[:asked]
        table, block = grouped(codes[rows], rows, len(slots), min(ROWS, slots.shape[1]))
        partial = None if on_gpu(codes.device) else hollow[block].tolist()
        return Round(
            RoundTiles(slots, block[:, None], table, key_place, partial),
            # Other blocks end before the query, and contain a key that is not padding.
            hides_later=self.causal and turn == 0,
            may_be_empty=self.key_padding_mask is not None and turn == 0,
            missing=order[asked:] if asked < len(order) else None,
        )

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor, Tensor]:
        """The slots of all blocks and the place of each key, as in `RoundTiles`; and bool, True for
        a block with an empty slot."""
        batch, num_heads = self.chosen.shape[:2]
        keys = torch.arange(batch * num_heads * self.key_len, device=self.chosen.device)
        keys = keys.view(batch, num_heads, self.key_len)
        size = min(self.size, self.key_len)
        missing = -self.key_len % size
        place = keys + missing * (keys // self.key_len)
        if self.key_padding_mask is not None:
            keys = keys.masked_fill(self.key_padding_mask[:, None], -1)
        slots = pad(keys, (0, missing), value=-1).view(-1, size)
        return slots, place.flatten(), (slots < 0).any(1)
