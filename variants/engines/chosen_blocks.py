"""Which blocks of keys a query sees, by the means of the keys; and the rounds to attend in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.engines import heads
from variants.engines.ranks import Tiles, grouped, stable_order
from variants.engines.rounds import Round
from variants.engines.tile import Scratch

ROWS = 64  # most query rows of a tile


def best_blocks(
    query: Tensor,
    positions: Tensor,
    key: Tensor,
    *,
    size: int,
    count: int,
    causal: bool,
    key_padding_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Numbers of the blocks of `size` keys that queries see, int64 (batch, heads, queries, count or
    all of them), -1 where none is left: first the block that holds a query's position, if any, then
    those of the highest scores, the lower of two that are equal.

    A score is the product of a query (batch, heads, queries, head_dim) with the mean of a block's
    keys that are not padded, of values cast to float32, summed in float64, rounded to float32.
    """
    key_len = key.shape[2]
    size = min(size, key_len)
    sign = (scale > 0) - (scale < 0)
    with torch.no_grad():
        means, hollow = _means(key, size, key_padding_mask)
        blocks = means.shape[2]
        own = positions.div(size, rounding_mode="floor")[:, None]
        numbers = torch.arange(blocks, device=positions.device)
        shape = (*query.shape[:3], min(count, blocks))
        chosen = torch.empty(shape, dtype=torch.int64, device=query.device)
        scratch = Scratch(query.device)
        room = heads.budget(query.device, torch.float64)
        step = max(1, room // blocks)
        for slab in heads.slabs(query, key, room // (len(positions) * blocks)):
            hidden = slab.padding(hollow, query.shape[1])
            for start in range(0, len(positions), step):
                part = slice(start, start + step)
                asked = slab.queries(query)[:, part].float()
                wide = scratch("wide", (*asked.shape[:2], blocks), torch.float64)
                torch.matmul(
                    scratch.copy("asked", asked, torch.float64, sign), slab.keys(means).mT, out=wide
                )
                scores = scratch.copy("scores", wide, torch.float32)
                if hidden is not None:
                    scores.masked_fill_(hidden[:, None], -torch.inf)
                if causal:
                    scores.masked_fill_(numbers > own[part], -torch.inf)
                scores.masked_fill_(numbers == own[part], torch.inf)
                slab.queries(chosen)[:, part] = _highest(scores, shape[-1])
    return chosen


def _means(key: Tensor, size: int, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Means of the blocks' keys, float64 (batch, kv_heads, blocks, head_dim), and which blocks are
    all padding, (batch, blocks). Padded keys are 0 already."""
    key_len = key.shape[2]
    missing = -key_len % size
    # Block by block, as a later key must not reach an earlier mean, not even by rounding.
    sums = pad(key.float(), (0, 0, 0, missing)).unflatten(2, (-1, size)).sum(3, dtype=torch.float64)
    if padding is None:
        counts = torch.full((1, sums.shape[2]), size, dtype=torch.float64, device=key.device)
        counts[:, -1] -= missing
        return sums / counts[:, None, :, None], None
    counts = pad(~padding, (0, missing)).unflatten(1, (-1, size)).sum(2, dtype=torch.float64)
    return sums / counts.clamp(min=1)[:, None, :, None], counts == 0


def _highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores of each row, the lower of two that are equal, and -1
    for -inf."""
    blocks = scores.shape[-1]
    values, indices = scores.topk(min(count + 1, blocks))
    if count < blocks:
        # Which of several equal ones it finds is not said: let it, unless it matters.
        tied = (values[..., -2] == values[..., -1]) & (values[..., -1] > -torch.inf)
        if bool(tied.any()):
            order = scores[tied].sort(dim=-1, descending=True, stable=True).indices
            indices[tied] = order[:, : count + 1]
    return indices.masked_fill_(values == -torch.inf, -1)[..., :count]


@dataclass(frozen=True, eq=False)
class ChosenRounds:
    """As `rounds.Rounds`: in each, queries see the first, second, ... of their chosen blocks."""

    chosen: Tensor  # as `best_blocks` gives
    key_len: int
    size: int
    causal: bool
    key_padding_mask: Tensor | None

    def __len__(self) -> int:
        return self.chosen.shape[3]

    def __getitem__(self, turn: int) -> Round:
        slots, key_place, hollow = self._keys
        chosen = self.chosen[..., turn].flatten(0, 1)
        blocks = len(slots) // len(chosen)
        first = blocks * torch.arange(len(chosen), device=chosen.device)[:, None]
        codes = torch.where(chosen < 0, len(slots), chosen + first).flatten()
        order = stable_order(codes, len(slots) + 1)
        asked = int((codes < len(slots)).sum())
        rows = order[:asked]
        table, block = grouped(codes[rows], rows, len(slots), min(ROWS, slots.shape[1]))
        partial = hollow[block].tolist() if codes.device.type == "cpu" else None
        return Round(
            Tiles(slots, block[:, None], table, key_place, partial),
            # Other blocks end before the query, and hold a key that is not padded.
            hides_later=self.causal and turn == 0,
            may_be_empty=self.key_padding_mask is not None and turn == 0,
            complete=asked == len(codes),
        )

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor, Tensor]:
        """The slots of all blocks, where each key stands in them, and which blocks lack some; the
        first two as in `Tiles`."""
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
