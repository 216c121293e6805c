"""LSH attention in rounds: tokens are sorted by bucket, and each bucket is cut into chunks.

The rank of a token is the number of keys before it in its bucket. Each chunk has `chunk` ranks,
beginning with rank 0, and a query sees its own chunk and the previous chunk. If `causal`, each
bucket is cut separately, so that ranks do not depend on later keys. Otherwise the buckets are
joined and cut together, so that a query may see keys of the neighbouring bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.device import on_gpu
from variants.engines.rounds.merge_rounds import Round, Rounds
from variants.engines.rounds.round_tiles import RoundTiles, grouped, stable_order


@dataclass(frozen=True, eq=False)
class HashedRounds(Rounds):
    """Sorts one round at a time, all heads together."""

    query_buckets: Tensor  # int64 (batch, heads, rounds, query_len)
    key_buckets: Tensor  # int64 (batch, heads, rounds, key_len)
    key_padding_mask: Tensor | None
    chunk: int
    causal: bool
    hides_own: bool

    def __len__(self) -> int:
        return self.query_buckets.shape[2]

    def __getitem__(self, turn: int) -> Round:
        query_buckets, key_buckets = self.query_buckets, self.key_buckets
        padding = self.key_padding_mask
        hidden = None if padding is None else padding.repeat_interleave(query_buckets.shape[1], 0)
        ranks = Ranks.of(
            query_buckets[:, :, turn].flatten(0, 1),
            key_buckets[:, :, turn].flatten(0, 1),
            hidden,
            causal=self.causal,
        )
        chunk = min(self.chunk, key_buckets.shape[-1])
        return Round(
            cut_into_tiles(ranks, chunk, chunk),
            hides_later=self.causal,
            hides_own=self.hides_own,
            may_be_empty=self.causal or self.hides_own or padding is not None,
        )


class Ranks(NamedTuple):
    """The segments and ranks of the queries and keys of one round. The first dimension is the slab
    of heads.

    A segment is a list of tokens that is cut into chunks separately. Segments are numbered over the
    slab; hidden keys are in one additional segment.
    """

    segments: int
    query_segment: Tensor  # (slab, query_len)
    query_rank: Tensor  # (slab, query_len) number of keys before the query in its segment
    key_segment: Tensor  # (slab, key_len)
    key_rank: Tensor  # (slab, key_len)
    query_order: Tensor  # (slab·query_len) all queries by segment and rank

    @classmethod
    def of(
        cls, query_bucket: Tensor, key_bucket: Tensor, hidden: Tensor | None, *, causal: bool
    ) -> Ranks:
        """Order by bucket, then by position; `hidden` keys (slab, key_len) have no rank."""
        query_bucket, key_bucket = query_bucket.long(), key_bucket.long()  # a kernel gives int32
        (slab, query_len), key_len = query_bucket.shape, key_bucket.shape[1]
        device = query_bucket.device
        # Queries and keys are sorted together, so the number of keys before a query is a running
        # count. A query is placed before the key at its own position and after all earlier keys.
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


def cut_into_tiles(ranks: Ranks, chunk: int, rows: int) -> RoundTiles:
    """Group the queries of each chunk of keys into tiles of `rows` rows. One additional chunk, the
    last one, is empty."""
    device = ranks.query_rank.device
    key_segment, key_rank = ranks.key_segment.flatten(), ranks.key_rank.flatten()
    query_segment, query_rank = ranks.query_segment.flatten(), ranks.query_rank.flatten()
    counts = torch.bincount(key_segment, minlength=ranks.segments + 1)[: ranks.segments]
    # One chunk more than the keys fill: the rank of a query may be after the last key.
    pieces = counts // chunk + 1
    stops = pieces.cumsum(0)
    total = int(stops[-1])
    starts = torch.cat([stops - pieces, stops[-1:]])
    key_place = starts[key_segment] * chunk + key_rank
    # Hidden keys are written to the empty chunk, which is cleared afterwards.
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
    if not on_gpu(device):
        partial = (slots < 0).any(1)[both].any(1).tolist()
    return RoundTiles(slots, both, table, key_place, partial)
