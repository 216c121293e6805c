"""Hashing, and where queries and keys stand in their buckets.

Positions inside a bucket are ranks: how many keys stand before. Chunks of `chunk` ranks are cut
from rank 0, and a query sees its own chunk and the one before. A rank among earlier keys knows
nothing of later ones, so with `causal` each bucket is cut by itself; without, the buckets are laid
end to end and cut as one, which lets a query see across the border into the neighbouring bucket.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.engines.primitives import head_slabs
from variants.engines.primitives.precision import fast_float32
from variants.engines.primitives.softmax_tile import Scratch


def hashed(tensor: Tensor, rotations: tuple[Tensor, ...], num_heads: int, rounds: int) -> Tensor:
    """Bucket numbers (batch, num_heads, rounds, len) of the rows of `tensor` (batch, kv_heads, len,
    head_dim), decided in float32.

    Each of the `rotations` (heads, rounds, head_dim, width) turns a row; the axis nearest to it, of
    2·width in both directions, is a digit of its number.
    """
    batch, _, length, _ = tensor.shape
    found = torch.zeros(batch, num_heads, rounds, length, dtype=torch.int64, device=tensor.device)
    if not rotations:
        return found
    scratch = Scratch(tensor.device)
    together = torch.cat(rotations, dim=-1).mT.flatten(1, 2)
    size = length * together.shape[1]
    with torch.no_grad(), fast_float32(tensor.device):
        room = head_slabs.budget(tensor.device, torch.float32)
        for slab in head_slabs.slabs(found, tensor, room // size):
            rows = slab.working(tensor, "rows", torch.float32, scratch)
            which = torch.arange(slab.heads.start, slab.heads.stop, device=tensor.device)
            turned = scratch("turned", (len(rows), together.shape[1], length), torch.float32)
            torch.bmm(together[which % num_heads], rows.mT, out=turned)
            codes = slab.queries(found)
            for digits in turned.unflatten(1, (rounds, -1)).split(
                [rotation.shape[-1] for rotation in rotations], dim=2
            ):
                codes.mul_(2 * digits.shape[2]).add_(_nearest_axis(digits))
    return found


def _nearest_axis(turned: Tensor) -> Tensor:
    """Index of the largest of x and -x, (..., width, len) to (..., len). By maxima and comparisons:
    an index search over this dimension is ten times slower."""
    width = turned.shape[-2]
    highest, lowest = turned.amax(-2, keepdim=True), turned.amin(-2, keepdim=True)
    positive = highest >= -lowest
    numbers = torch.arange(1, width + 1, dtype=turned.dtype, device=turned.device)[:, None]
    at_extreme = torch.eq(turned, torch.where(positive, highest, lowest)).to(turned.dtype)
    index = at_extreme.mul_(numbers).amax(-2) - 1
    # A row of NaN is nowhere near an axis, but must have a bucket.
    index.clamp_(min=0).add_((~positive[..., 0, :]).to(turned.dtype), alpha=width)
    return index.long()


class Ranks(NamedTuple):
    """Where the queries and keys of one round stand; the first dimension is the slab of heads.

    A segment is what is cut into chunks by itself; segments are numbered over the slab, and hidden
    keys are in one more.
    """

    segments: int
    query_segment: Tensor  # (slab, query_len)
    query_rank: Tensor  # (slab, query_len) keys of its segment before it
    key_segment: Tensor  # (slab, key_len)
    key_rank: Tensor  # (slab, key_len)
    query_order: Tensor  # (slab·query_len) all queries by segment and rank

    @classmethod
    def of(
        cls, query_bucket: Tensor, key_bucket: Tensor, hidden: Tensor | None, *, causal: bool
    ) -> Ranks:
        """Rank by bucket, then position; `hidden` keys (slab, key_len) have no rank."""
        (slab, query_len), key_len = query_bucket.shape, key_bucket.shape[1]
        device = query_bucket.device
        # Queries and keys are sorted together: the keys before a query are then a running count.
        # A query stands before the key at its own position, but behind the keys before that.
        length = query_len + key_len
        offset = key_len - query_len
        own, keys = (torch.arange(size, device=device) for size in (query_len, key_len))
        before = (own + offset).clamp(0, key_len), (keys - offset + 1).clamp(0, query_len)
        by_place = torch.empty(length, dtype=torch.int64, device=device)
        by_place[torch.cat([own + before[0], keys + before[1]])] = torch.cat(
            [own, keys + query_len]
        )
        buckets = int(torch.maximum(query_bucket.amax(), key_bucket.amax())) + 1
        codes = torch.cat([query_bucket, key_bucket], dim=1)[:, by_place]
        codes += buckets * torch.arange(slab, device=device)[:, None]
        codes = codes.flatten()
        order = stable_order(codes, buckets * slab)
        head = order.div(length, rounding_mode="floor")
        inside = by_place[order - head * length]
        item = head * length + inside
        is_key = inside >= query_len
        counted = is_key
        if hidden is not None:
            shown = torch.cat([hidden.new_ones(slab, query_len), ~hidden], dim=1)
            counted = is_key & shown.flatten()[item]
        segment, segments = (codes[order], buckets * slab) if causal else (head, slab)
        running = counted.cumsum(0)
        counts = torch.zeros(segments, dtype=torch.int64, device=device)
        counts.index_add_(0, segment, counted.long())
        rank = running - counted.long() - (counts.cumsum(0) - counts)[segment]
        if hidden is not None:
            segment = segment.masked_fill(is_key & ~counted, segments)
        # Back to the order of positions.
        placed = [torch.empty_like(order).index_copy_(0, item, x) for x in (segment, rank)]
        (query_segment, key_segment), (query_rank, key_rank) = (
            x.view(slab, -1).split([query_len, key_len], dim=1) for x in placed
        )
        asked = (head * query_len + inside)[~is_key]
        return cls(segments, query_segment, query_rank, key_segment, key_rank, asked)


def stable_order(codes: Tensor, limit: int) -> Tensor:
    """Indices that sort `codes` (items), all below `limit`; equal ones by index."""
    if codes.device.type == "cpu" and limit <= 1 << 16:
        # NumPy sorts sixteen-bit numbers digit by digit, some fifteen times faster than torch.
        return torch.from_numpy(codes.numpy().astype("uint16").argsort(kind="stable"))
    return codes.argsort(stable=True)


class Tiles(NamedTuple):
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

    def filled(self, least: int) -> Tiles:
        """With tiles without a row, so that there are `least` of them."""
        missing = max(0, least - len(self.rows))
        return self._replace(
            chunks=pad(self.chunks, (0, 0, 0, missing)),
            rows=pad(self.rows, (0, 0, 0, missing), value=-1),
            partial=self.partial and self.partial + [True] * missing,
        )

    @classmethod
    def of(cls, ranks: Ranks, chunk: int, rows: int) -> Tiles:
        """Group the queries of each chunk of keys into tiles of `rows` rows. One more chunk, the
        last, is empty."""
        device = ranks.query_rank.device
        key_segment, key_rank = ranks.key_segment.flatten(), ranks.key_rank.flatten()
        query_segment, query_rank = ranks.query_segment.flatten(), ranks.query_rank.flatten()
        counts = torch.bincount(key_segment, minlength=ranks.segments + 1)[: ranks.segments]
        # One chunk more than the keys fill: a query may stand behind the last of them.
        pieces = counts // chunk + 1
        stops = pieces.cumsum(0)
        total = int(stops[-1])
        starts = torch.cat([stops - pieces, stops[-1:]])
        key_place = starts[key_segment] * chunk + key_rank
        # Hidden keys are put into the empty chunk, and taken out again.
        last = (total + 1) * chunk - 1
        key_place.clamp_(max=last)
        slots = torch.full((last + 1,), -1, dtype=torch.int64, device=device)
        slots.index_copy_(0, key_place, torch.arange(len(key_place), device=device))
        slots[-chunk:] = -1
        own = (starts[query_segment] + query_rank // chunk)[ranks.query_order]
        table, chunks = grouped(own, ranks.query_order, total, rows)
        is_first = torch.zeros(total, dtype=torch.bool, device=device)
        is_first[starts[:-1]] = True
        before = torch.where(is_first[chunks], total, chunks - 1)
        both = torch.stack([before, chunks], dim=1)
        slots = slots.view(-1, chunk)
        partial = None
        if device.type == "cpu":
            partial = (slots < 0).any(1)[both].any(1).tolist()
        return cls(slots, both, table, key_place, partial)


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
