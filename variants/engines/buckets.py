"""Runs hashed attention: a query against the keys next to it in its bucket, round by round.

Positions inside a bucket are ranks: how many keys stand before. Chunks of `chunk` ranks are cut
from rank 0, and a query sees its own chunk and the one before. A rank among earlier keys knows
nothing of later ones, so with `causal` each bucket is cut by itself; without, the buckets are laid
end to end and cut as one, which lets a query see across the border into the neighbouring bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from variants.contract.dense import compute_dtype
from variants.engines import tile
from variants.engines.blocks import SCORES_CPU, SCORES_GPU


class Ranks(NamedTuple):
    """Where the queries and keys of one round stand; the leading dimension is (batch·heads)."""

    order: Tensor  # (slab, key_len) keys by segment, then rank; padded keys last
    counts: Tensor  # (slab, segments) keys of each segment
    query_segment: Tensor  # (slab, query_len)
    query_rank: Tensor  # (slab, query_len)

    @classmethod
    def of(
        cls, query_bucket: Tensor, key_bucket: Tensor, hidden: Tensor | None, *, causal: bool
    ) -> Ranks:
        """Rank by bucket, then position; `hidden` keys (slab, key_len) have no rank."""
        query_len, key_len = query_bucket.shape[-1], key_bucket.shape[-1]
        positions = torch.arange(key_len, device=key_bucket.device)
        buckets = int(torch.max(query_bucket.amax(), key_bucket.amax())) + 1
        if hidden is not None:
            key_bucket = key_bucket.masked_fill(hidden, buckets)
        codes, order = torch.sort(key_bucket * key_len + positions)
        counts = torch.zeros_like(key_bucket[:, :1]).expand(-1, buckets + 1).clone()
        counts = counts.scatter_add_(1, key_bucket, torch.ones_like(key_bucket))[:, :buckets]
        own = torch.arange(query_len, device=positions.device) + (key_len - query_len)
        rank = torch.searchsorted(codes, query_bucket * key_len + own.clamp(min=0))
        if not causal:
            segment = torch.zeros_like(query_bucket)
            return cls(order, counts.sum(-1, keepdim=True), segment, rank)
        starts = counts.cumsum(-1) - counts
        return cls(order, counts, query_bucket, rank - starts.gather(1, query_bucket))

    def keys(self) -> tuple[Tensor, Tensor]:
        """Segment and rank of each key (slab, key_len); segment -1 for hidden keys."""
        stops = self.counts.cumsum(-1)
        places = torch.arange(self.order.shape[-1], device=self.order.device)
        places = places.expand_as(self.order).contiguous()
        segment = torch.searchsorted(stops, places, right=True)
        inside = segment < self.counts.shape[-1]
        starts = (stops - self.counts).gather(1, segment.clamp(max=self.counts.shape[-1] - 1))
        segment, rank = segment.masked_fill(~inside, -1), places - starts
        empty = torch.empty_like(self.order)
        return (
            empty.scatter(1, self.order, segment),
            empty.scatter(1, self.order, rank),
        )


class Tiles(NamedTuple):
    """Indices of the queries (slab, tiles, rows) and keys (slab, tiles, keys); -1 is padding."""

    queries: Tensor
    keys: Tensor


def _cut(order: Tensor, counts: Tensor, size: int, pieces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut consecutive groups of `counts` items into `pieces` pieces of `size` slots each.

    Returns the items (slab, total pieces, size), -1 where a slot is empty, the group of each piece
    and its number within the group.
    """
    stops, piece_stops = counts.cumsum(-1), pieces.cumsum(-1)
    total = int(piece_stops[:, -1].max())
    numbers = torch.arange(total, device=order.device).expand(len(order), -1).contiguous()
    group = torch.searchsorted(piece_stops, numbers, right=True)
    spare = group == counts.shape[-1]  # other slabs may have more pieces
    group = group.clamp(max=counts.shape[-1] - 1)
    within = numbers - (piece_stops - pieces).gather(1, group)
    first = (stops - counts).gather(1, group) + within * size
    places = first[..., None] + torch.arange(size, device=order.device)
    valid = (places < stops.gather(1, group)[..., None]) & ~spare[..., None]
    items = order.gather(1, places.clamp(max=order.shape[-1] - 1).flatten(1)).view_as(places)
    return items.masked_fill(~valid, -1), group, within


def cut_tiles(ranks: Ranks, chunk: int) -> Tiles:
    """Group the queries of each chunk of keys into tiles of `chunk` rows."""
    # One chunk more than the keys fill: a query may stand behind the last of them.
    chunks = ranks.counts // chunk + 1
    keys, _, within = _cut(ranks.order, ranks.counts, chunk, chunks)
    before = pad(keys[:, :-1], (0, 0, 1, 0), value=-1).masked_fill(within[..., None] == 0, -1)
    keys = torch.cat([before, keys], dim=-1)
    starts = chunks.cumsum(-1) - chunks
    owner = starts.gather(1, ranks.query_segment) + ranks.query_rank // chunk
    counts = torch.zeros_like(keys[:, :, 0]).scatter_add_(1, owner, torch.ones_like(owner))
    queries, group, _ = _cut(owner.argsort(stable=True), counts, chunk, -(-counts // chunk))
    return Tiles(queries, keys.gather(1, group[..., None].expand(-1, -1, keys.shape[-1])))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_buckets: Tensor,
    key_buckets: Tensor,
    *,
    chunk: int,
    causal: bool,
    hide_self: bool,
    key_padding_mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Softmax over all (round, key) pairs a query sees; a key seen twice weighs twice.

    Args:
        query, key, value: as in `Attention.__call__`.
        query_buckets, key_buckets: int64 (batch, heads, rounds, query_len or key_len).
        hide_self: hide the key at the query's own position.

    Returns:
        out (batch, heads, query_len, head_dim), and a bool (batch, heads, query_len): which rows
        saw nothing, and are 0.
    """
    settings = _Settings(min(chunk, key.shape[2]), causal, hide_self, scale)
    out, lse = _Buckets.apply(
        query, key, value, query_buckets, key_buckets, key_padding_mask, settings
    )
    return out, lse == -torch.inf


class _Settings(NamedTuple):
    chunk: int
    causal: bool
    hide_self: bool
    scale: float


class _Slab(NamedTuple):
    """Tensors of the heads processed together, (slab, len, ...)."""

    query: Tensor
    key: Tensor
    value: Tensor
    offset: int
    settings: _Settings

    def gather(self, tiles: Tiles) -> tuple[Tensor, tile.Piece]:
        """The scaled queries and the keys of some tiles."""
        queries, keys = tiles.queries.clamp(min=0), tiles.keys.clamp(min=0)
        hidden = (tiles.keys < 0)[:, :, None]
        own = (tiles.queries + self.offset)[..., None]
        if self.settings.causal:
            hidden = hidden | (tiles.keys[:, :, None] > own)
        if self.settings.hide_self:
            hidden = hidden | (tiles.keys[:, :, None] == own)
        bias = self.query.new_zeros(hidden.shape, dtype=compute_dtype(self.query.dtype))
        piece = tile.Piece(
            tile.working(tile.take(self.key, keys)),
            tile.working(tile.take(self.value, keys)),
            bias.masked_fill_(hidden, -torch.inf),
        )
        return tile.working(tile.take(self.query, queries)) * self.settings.scale, piece


def _rounds(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_buckets: Tensor,
    key_buckets: Tensor,
    key_padding_mask: Tensor | None,
    settings: _Settings,
) -> Iterator[tuple[slice, slice, _Slab, list[Iterator[Tiles]]]]:
    """Each slab of heads, and the tiles of each round in portions that fit the score budget."""
    batch, heads, query_len, _ = query.shape
    for slab, kv in tile.head_slabs(batch, heads, key.shape[1], query.device):
        hidden = None
        if key_padding_mask is not None:
            owners = torch.arange(slab.start, slab.stop, device=query.device) // heads
            hidden = key_padding_mask[owners]
        tensors = _Slab(
            query.flatten(0, 1)[slab],
            key.flatten(0, 1)[kv],
            value.flatten(0, 1)[kv],
            key.shape[2] - query_len,
            settings,
        )
        rounds = (
            _portions(
                query_buckets.flatten(0, 1)[slab, turn],
                key_buckets.flatten(0, 1)[slab, turn],
                hidden,
                settings,
            )
            for turn in range(query_buckets.shape[2])
        )
        yield slab, kv, tensors, list(rounds)


def _portions(
    query_bucket: Tensor, key_bucket: Tensor, hidden: Tensor | None, settings: _Settings
) -> Iterator[Tiles]:
    ranks = Ranks.of(query_bucket, key_bucket, hidden, causal=settings.causal)
    tiles = cut_tiles(ranks, settings.chunk)
    budget = SCORES_GPU if query_bucket.device.type == "cuda" else SCORES_CPU
    step = max(1, budget // (2 * settings.chunk**2 * len(query_bucket)))
    for start in range(0, tiles.queries.shape[1], step):
        yield Tiles(*(x[:, start : start + step] for x in tiles))


class _Buckets(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        batch, heads, query_len, head_dim = query.shape
        dtype = compute_dtype(query.dtype)
        out = query.new_empty(batch * heads, query_len, head_dim)
        lse = query.new_empty(out.shape[:2], dtype=dtype)
        for slab, _, tensors, rounds in _rounds(query, key, value, *rest):
            # One row more than there are: padding writes there.
            size = slab.stop - slab.start
            total = query.new_zeros(size, query_len, head_dim, dtype=dtype)
            total_lse = query.new_full((size, query_len), -torch.inf, dtype=dtype)
            for portions in rounds:
                part = query.new_empty(size, query_len + 1, head_dim, dtype=dtype)
                part_lse = query.new_empty(size, query_len + 1, dtype=dtype)
                for tiles in portions:
                    rows, piece = tensors.gather(tiles)
                    result, result_lse = tile.forward(rows, [piece])
                    place = tiles.queries.masked_fill(tiles.queries < 0, query_len)
                    tile.put(part_lse, place, result_lse)
                    tile.put(part, place, result)
                total, total_lse = tile.merge(
                    total, total_lse, part[:, :query_len], part_lse[:, :query_len]
                )
            out[slab], lse[slab] = total, total_lse
        out, lse = out.unflatten(0, (batch, heads)), lse.unflatten(0, (batch, heads))
        query_buckets, key_buckets, key_padding_mask, ctx.settings = rest
        ctx.save_for_backward(
            query, key, value, out, lse, query_buckets, key_buckets, key_padding_mask
        )
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_out, _ = grads
        query, key, value, out, lse, query_buckets, key_buckets, padding = ctx.saved_tensors
        dtype = compute_dtype(query.dtype)
        grad_query, grad_key, grad_value = (
            x.new_zeros(x.shape, dtype=dtype) for x in (query, key, value)
        )
        delta = (out.to(dtype) * grad_out.to(dtype)).sum(-1).flatten(0, 1)
        for slab, kv, tensors, rounds in _rounds(
            query, key, value, query_buckets, key_buckets, padding, ctx.settings
        ):
            slab_grads = [
                grad_query.flatten(0, 1)[slab],
                grad_key.flatten(0, 1)[kv],
                grad_value.flatten(0, 1)[kv],
            ]
            for portions in rounds:
                for tiles in portions:
                    rows, piece = tensors.gather(tiles)
                    queries = tiles.queries.clamp(min=0)
                    unused = tiles.queries < 0
                    # Padding rows get no gradient: their weights are made 0.
                    row_lse = tile.take(lse.flatten(0, 1)[slab], queries)
                    row_grad, [(key_grad, value_grad)] = tile.backward(
                        rows,
                        [piece],
                        row_lse.masked_fill(unused, torch.inf),
                        tile.working(tile.take(grad_out.flatten(0, 1)[slab], queries)),
                        tile.take(delta[slab], queries),
                    )
                    shares = (row_grad * ctx.settings.scale, key_grad, value_grad)
                    keys = tiles.keys.clamp(min=0)
                    for total, index, share in zip(
                        slab_grads, (queries, keys, keys), shares, strict=True
                    ):
                        tile.add(total, index, share)
        return (
            grad_query.to(query.dtype),
            grad_key.to(key.dtype),
            grad_value.to(value.dtype),
            *(None,) * 4,
        )
