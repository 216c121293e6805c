"""Runs hashed attention: a query against the keys next to it in its bucket, round by round.

Positions inside a bucket are ranks: how many keys stand before. Chunks of `chunk` ranks are cut
from rank 0, and a query sees its own chunk and the one before. A rank among earlier keys knows
nothing of later ones, so with `causal` each bucket is cut by itself; without, the buckets are laid
end to end and cut as one, which lets a query see across the border into the neighbouring bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.dense import compute_dtype
from variants.engines import heads, tile
from variants.engines.heads import Slab
from variants.engines.matmul import Precision, fast_float32
from variants.engines.tile import HIDDEN, Scratch


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
        room = heads.budget(tensor.device, torch.float32)
        for slab in heads.slabs(found, tensor, room // size):
            rows = slab.keys(tensor, "rows", torch.float32, scratch)
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
        order = _stable_order(codes, buckets * slab)
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


def _stable_order(codes: Tensor, limit: int) -> Tensor:
    """Indices that sort `codes` (items), all below `limit`; equal ones by index."""
    if codes.device.type == "cpu" and limit <= 1 << 16:
        # NumPy sorts sixteen-bit numbers digit by digit, some fifteen times faster than torch.
        return torch.from_numpy(codes.numpy().astype("uint16").argsort(kind="stable"))
    return codes.argsort(stable=True)


class Tiles(NamedTuple):
    """A round cut into tiles; rows are counted over the slab, -1 is an empty slot."""

    slots: Tensor  # (chunks + 1, chunk) key rows; the last chunk is empty
    chunks: Tensor  # (tiles, 2) the chunk before, the own chunk
    rows: Tensor  # (tiles, rows) query rows
    query_place: Tensor  # (slab·query_len) where each query stands in `rows`
    key_place: Tensor  # (slab·key_len) where each key stands in `slots`
    partial: list[bool] | None  # whether some key slot of a tile is empty; None if not known

    @classmethod
    def of(cls, ranks: Ranks, chunk: int, rows: int) -> Tiles:
        """Group the queries of each chunk of keys into tiles of `rows` rows."""
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
        asked = torch.bincount(own, minlength=total)
        each = (asked + rows - 1) // rows
        tile_stops = each.cumsum(0)
        place = torch.arange(len(own), device=device)
        place += ((tile_stops - each) * rows - (asked.cumsum(0) - asked))[own]
        table = torch.full((int(tile_stops[-1]) * rows,), -1, dtype=torch.int64, device=device)
        table.index_copy_(0, place, ranks.query_order)
        query_place = torch.empty_like(place).index_copy_(0, ranks.query_order, place)
        chunks = torch.repeat_interleave(each)
        is_first = torch.zeros(total, dtype=torch.bool, device=device)
        is_first[starts[:-1]] = True
        before = torch.where(is_first[chunks], total, chunks - 1)
        both = torch.stack([before, chunks], dim=1)
        slots = slots.view(-1, chunk)
        partial = None
        if device.type == "cpu":
            partial = (slots < 0).any(1)[both].any(1).tolist()
        return cls(slots, both, table.view(-1, rows), query_place, key_place, partial)


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
    coarse: bool = False,
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
    precision = Precision.of(query, coarse=coarse)
    out, lse = _Buckets.apply(
        query, key, value, query_buckets, key_buckets, key_padding_mask, settings, precision
    )
    return out, lse == -torch.inf


class _Settings(NamedTuple):
    chunk: int
    causal: bool
    hide_self: bool
    scale: float


class _Round(NamedTuple):
    """One round of a slab of heads; queries, keys and values are (slab·len, head_dim)."""

    slab: Slab
    turn: int
    query: Tensor
    keys: Tensor  # by chunks (chunks + 1, chunk·head_dim), as `tiles.slots` says
    values: Tensor
    tiles: Tiles
    query_len: int
    key_len: int
    padded: bool
    settings: _Settings
    precision: Precision
    scratch: Scratch

    def portions(self) -> Iterator[slice]:
        """Tiles whose scores fit the budget."""
        size = self.tiles.rows.shape[1] * 2 * self.settings.chunk
        step = max(1, heads.budget(self.query.device, self.precision.scores) // size)
        for start in range(0, len(self.tiles.rows), step):
            yield slice(start, min(start + step, len(self.tiles.rows)))

    def tensors(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries and keys and values of some tiles, (tiles, rows or keys, head_dim)."""
        rows = self.tiles.rows[part]
        query = self.take("query", self.query, rows).view(*rows.shape, -1)
        query = self.scratch.copy("scaled", query, self.precision.operands, self.settings.scale)
        chunks = self.tiles.chunks[part]
        head_dim = query.shape[-1]
        key, value = (
            self.take(name, x, chunks).view(len(chunks), -1, head_dim)
            for name, x in (("key", self.keys), ("value", self.values))
        )
        return query, key, value

    def take(self, name: str, tensor: Tensor, index: Tensor) -> Tensor:
        """Rows `index` of a matrix, some rows or other for -1, in a buffer."""
        shape = (index.numel(), tensor.shape[1])
        buffer = self.scratch(name, shape, tensor.dtype)
        return torch.index_select(tensor, 0, index.flatten().clamp(min=0), out=buffer)

    def hide(self, part: slice, scores: Tensor) -> bool:
        """As `tile.Hide`."""
        tiles, settings = self.tiles, self.settings
        slots = tiles.slots[tiles.chunks[part]].flatten(1)
        if settings.causal or settings.hide_self:
            # Compared as floats, which is several times faster; both are exact up to 2^24.
            exact = torch.float32 if self.key_len < 1 << 24 else torch.float64
            offset = self.key_len - self.query_len
            own = (tiles.rows[part] % self.query_len + offset).to(exact)[..., None]
            keys = (slots % self.key_len).to(exact)[:, None]
            for compare, wanted in ((torch.gt, settings.causal), (torch.eq, settings.hide_self)):
                if wanted:
                    found = self.scratch("found", scores.shape, scores.dtype)
                    scores.add_(compare(keys, own, out=found), alpha=HIDDEN)
        if tiles.partial is None or any(tiles.partial[part]):
            empty = torch.zeros(slots.shape, dtype=scores.dtype, device=scores.device)
            scores.add_(empty.masked_fill_(slots < 0, HIDDEN)[:, None])
        return settings.causal or settings.hide_self or self.padded


def _rounds(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_buckets: Tensor,
    key_buckets: Tensor,
    padding: Tensor | None,
    settings: _Settings,
    precision: Precision,
    scratch: Scratch,
) -> Iterator[_Round]:
    """Every round of every slab of heads."""
    query_len, key_len = query.shape[2], key.shape[2]
    room = heads.budget(query.device, precision.scores)
    for slab in heads.slabs(query, key, room // (2 * settings.chunk * query_len)):
        keys, values = (
            slab.keys(x, name, precision.operands, scratch).reshape(-1, x.shape[-1])
            for x, name in ((key, "all keys"), (value, "all values"))
        )
        hidden = slab.padding(padding, query.shape[1])
        for turn in range(query_buckets.shape[2]):
            ranks = Ranks.of(
                slab.queries(query_buckets)[:, turn],
                slab.queries(key_buckets)[:, turn],
                hidden,
                causal=settings.causal,
            )
            tiles = Tiles.of(ranks, settings.chunk, settings.chunk)
            slots = tiles.slots.flatten().clamp(min=0)
            ordered = [
                torch.index_select(
                    tensor,
                    0,
                    slots,
                    out=scratch(name, (len(slots), tensor.shape[1]), tensor.dtype),
                ).view(len(tiles.slots), -1)
                for name, tensor in (("keys in order", keys), ("values in order", values))
            ]
            yield _Round(
                slab=slab,
                turn=turn,
                query=slab.queries(query).reshape(-1, query.shape[-1]),
                keys=ordered[0],
                values=ordered[1],
                tiles=tiles,
                query_len=query_len,
                key_len=key_len,
                padded=hidden is not None,
                settings=settings,
                precision=precision,
                scratch=scratch,
            )


class _Buckets(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_buckets: Tensor,
        key_buckets: Tensor,
        padding: Tensor | None,
        settings: _Settings,
        precision: Precision,
    ) -> tuple[Tensor, Tensor]:
        head_dim = query.shape[-1]
        wide = compute_dtype(query.dtype)
        hashed = query_buckets, key_buckets, padding
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        lse = query.new_empty(query.shape[:3], dtype=wide)
        rounds = query_buckets.shape[2]
        scratch = Scratch(query.device)
        with fast_float32(query.device):
            for now in _rounds(query, key, value, *hashed, settings, precision, scratch):
                rows = now.tiles.rows
                parts = scratch("parts", (rows.numel(), head_dim), precision.scores)
                part_lse = scratch("part lse", rows.shape, wide)
                for part in now.portions():
                    hide = partial(now.hide, part)
                    result = tile.forward(
                        *now.tensors(part), hide, precision, scratch, part_lse[part]
                    )
                    parts.view(*rows.shape, -1)[part] = result
                place = now.tiles.query_place
                found = now.take("found rows", parts, place)
                found_lse = part_lse.flatten().index_select(0, place)
                own_out, own_lse = (now.slab.queries(x) for x in (out, lse))
                if rounds == 1:
                    own_out.copy_(found.view(own_out.shape))
                    own_lse.copy_(found_lse.view(own_lse.shape))
                    continue
                total = scratch("total", found.shape, wide)
                total_lse = scratch("total lse", found_lse.shape, wide)
                if now.turn == 0:
                    total.copy_(found)
                    total_lse.copy_(found_lse)
                else:
                    _merge(total, total_lse, found, found_lse)
                if now.turn == rounds - 1:
                    own_out.copy_(total.view(own_out.shape))
                    own_lse.copy_(total_lse.view(own_lse.shape))
        ctx.save_for_backward(query, key, value, out, lse, *hashed)
        ctx.settings = settings, precision
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_out, _ = grads
        query, key, value, out, lse, query_buckets, key_buckets, padding = ctx.saved_tensors
        hashed = query_buckets, key_buckets, padding
        settings, precision = ctx.settings
        wide = compute_dtype(query.dtype)
        grad_query, grad_key, grad_value = (
            torch.zeros(x.shape, dtype=wide, device=x.device) for x in (query, key, value)
        )
        head_dim = query.shape[-1]
        scratch = Scratch(query.device)
        with fast_float32(query.device):
            for now in _rounds(query, key, value, *hashed, settings, precision, scratch):
                slab, tiles = now.slab, now.tiles
                own_grad = slab.queries(grad_out).reshape(-1, head_dim)
                own_out = slab.queries(out).reshape(-1, head_dim)
                delta = (own_grad.to(wide) * own_out).sum(-1)
                own_lse = slab.queries(lse).flatten()
                own_lse = own_lse.masked_fill(own_lse == -torch.inf, torch.inf)
                parts = scratch("parts", (tiles.rows.numel(), head_dim), precision.scores)
                shares = [x.new_zeros(x.shape, dtype=wide) for x in (now.keys, now.values)]
                for part in now.portions():
                    rows = tiles.rows[part]
                    taken = now.take("grad out rows", own_grad, rows).view(*rows.shape, -1)
                    # Rows of padding get no gradient: their weights are made 0.
                    row_lse = own_lse[rows.clamp(min=0)].masked_fill_(rows < 0, torch.inf)
                    row_grad, *pair_grads = tile.backward(
                        *now.tensors(part),
                        partial(now.hide, part),
                        precision,
                        scratch,
                        scratch.copy("grad out", taken, precision.operands),
                        delta[rows.clamp(min=0)].to(precision.scores),
                        row_lse,
                    )
                    parts.view(*tiles.rows.shape, -1)[part] = row_grad.mul_(settings.scale)
                    chunks = tiles.chunks[part].flatten()
                    for total, share in zip(shares, pair_grads, strict=True):
                        total.index_add_(0, chunks, share.view(len(chunks), -1).to(wide))
                own = slab.queries(grad_query)
                own += now.take("found rows", parts, tiles.query_place).view(own.shape)
                for grad, total in zip((grad_key, grad_value), shares, strict=True):
                    with slab.adding(grad) as target:
                        found = now.take("found keys", total.view(-1, head_dim), tiles.key_place)
                        target += found.view(target.shape)
        return (
            grad_query.to(query.dtype),
            grad_key.to(key.dtype),
            grad_value.to(value.dtype),
            *(None,) * 5,
        )


def _merge(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """Put a second result for the same rows onto the first, as if their keys had been seen
    together."""
    both = torch.logaddexp(lse, new_lse)
    base = both.masked_fill(both == -torch.inf, 0)
    out.mul_((lse - base).exp_()[:, None])
    out.add_(new_out.mul_((new_lse - base).exp_()[:, None].to(new_out.dtype)))
    lse.copy_(both)
