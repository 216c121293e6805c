"""Runs a `Pattern` tile by tile: a block of queries against its band, the global keys and the
random blocks, with nothing larger than a few tiles in memory, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from variants.contract.dense import compute_dtype
from variants.contract.pattern import Pattern
from variants.engines import dense, tile

SCORES_CPU = 1 << 19  # scores held at once; 2 MiB of float32, about a core's share of the cache
SCORES_GPU = 1 << 27


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Pattern,
    *,
    key_padding_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Softmax attention over the keys that `pattern` shows; shapes as in `Attention.__call__`."""
    if pattern.covers_everything():
        return dense.attend(
            query, key, value, causal=pattern.causal, key_padding_mask=key_padding_mask, scale=scale
        )
    rows = torch.arange(query.shape[2], device=query.device)
    # Global queries see all keys, and stand at the two ends: they are dense rows.
    first = min(max(pattern.leading - pattern.offset, 0), len(rows)) if pattern.leading else 0
    last = max(first, min(len(rows), pattern.key_len - pattern.trailing - pattern.offset))
    if 2 * pattern.window * pattern.block_size >= pattern.key_len:
        first, last = len(rows), len(rows)  # a band this wide saves nothing over masked rows
    pieces = []
    for block in (rows[:first], None, rows[last:]):
        if block is None and first < last:
            middle: Tensor = _Middle.apply(
                query, key, value, pattern, key_padding_mask, scale, first, last
            )
            pieces.append(middle)
        elif block is not None and len(block):
            pieces.append(
                dense.masked_rows(
                    query,
                    key,
                    value,
                    block,
                    causal=pattern.causal,
                    key_padding_mask=key_padding_mask,
                    scale=scale,
                    pattern_mask=None if pattern.all_global(block) else pattern.mask,
                )
            )
    return torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]


@dataclass(frozen=True, eq=False)
class _Grid:
    """How the middle rows are cut into tiles of equal size."""

    rows: int  # query rows of a tile
    tiles: int
    lead: int  # rows of padding before the first query
    start: int  # position of the first row of the first tile
    left: int  # keys of the band before the first row of a tile
    band: int  # keys of the band

    @staticmethod
    def of(pattern: Pattern, first: int, last: int) -> _Grid:
        position = first + pattern.offset
        reach = pattern.window * pattern.block_size
        if pattern.block_size > 1 or pattern.random_blocks is not None:
            rows, lead = pattern.block_size, position % pattern.block_size
        else:
            rows, lead = (64 if reach <= 128 else 128), 0
        tiles = -(-(lead + last - first) // rows)
        right = 0 if pattern.causal else reach
        return _Grid(rows, tiles, lead, position - lead, reach, reach + rows + right)

    def band_bias(self, pattern: Pattern, like: Tensor) -> Tensor | None:
        """Bias (rows, band) that all tiles share; None where blocks are seen whole."""
        queries = torch.arange(self.rows, device=like.device)[:, None]
        keys = torch.arange(self.band, device=like.device) - self.left
        hidden = (
            (queries - keys).abs() > pattern.window
            if pattern.block_size == 1
            else torch.zeros_like(queries == keys)
        )
        if pattern.causal:
            hidden = hidden | (keys > queries)
        if not bool(hidden.any()):
            return None
        return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf)


class _Head:
    """Keys and values of one slab of heads, cut the way the tiles read them.

    Slab tensors have the shape (slab, key_len, head_dim); tiles come as (slab, tiles, keys,
    head_dim).
    """

    def __init__(
        self,
        key: Tensor,
        value: Tensor,
        hidden: Tensor | None,
        pattern: Pattern,
        grid: _Grid,
        heads: slice,
        num_heads: int,
    ) -> None:
        self.key, self.value = tile.working(key), tile.working(value)
        self.pattern, self.grid = pattern, grid
        self.dtype = compute_dtype(key.dtype)
        slab, key_len, _ = key.shape
        self.front = max(0, grid.left - grid.start)
        last_band = grid.start + (grid.tiles - 1) * grid.rows - grid.left
        self.back = max(0, last_band + grid.band - key_len)
        self.band_key = self._padded(self.key)
        self.band_value = self._padded(self.value)
        bias = key.new_zeros(slab, key_len, dtype=self.dtype)
        if hidden is not None:
            bias.masked_fill_(hidden, -torch.inf)
        self.key_bias = bias
        # Global keys are a piece of their own, so the band leaves them out.
        band = bias.clone()
        band[:, : pattern.leading] = -torch.inf
        band[:, key_len - pattern.trailing :] = -torch.inf
        self.band_hidden = pad(band, (self.front, self.back), value=-torch.inf)
        self.shared_bias = grid.band_bias(pattern, bias)
        self.anything_hidden = hidden is not None
        positions = torch.arange(key_len, device=key.device)
        # No middle row stands as late as a trailing key, so a causal one never sees it.
        tail = positions[:0] if pattern.causal else positions[key_len - pattern.trailing :]
        self.global_keys = torch.cat([positions[: pattern.leading], tail])
        self.random: Tensor | None = None
        if pattern.random_blocks is not None:
            index = torch.arange(heads.start, heads.stop, device=key.device) % num_heads
            self.random = pattern.random_blocks[index]

    def _padded(self, tensor: Tensor) -> Tensor:
        return pad(tensor, (0, 0, self.front, self.back)) if self.front or self.back else tensor

    def band_start(self, start: int) -> int:
        """Index into the padded keys at which the band of tile `start` begins."""
        return self.front + self.grid.start + start * self.grid.rows - self.grid.left

    def _windows(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        """Overlapping views (slab, tiles, band, ...) of a padded tensor."""
        first = self.band_start(start)
        length = (stop - start - 1) * self.grid.rows + self.grid.band
        views = tensor[:, first : first + length].unfold(1, self.grid.band, self.grid.rows)
        return views if tensor.ndim == 2 else views.transpose(-2, -1)

    def random_keys(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Key indices (slab, tiles, keys) of the random blocks, and their bias."""
        assert self.random is not None
        pattern, rows = self.pattern, self.grid.rows
        own = self.grid.start // rows + torch.arange(start, stop, device=self.key.device)
        blocks = self.random[:, own.clamp(min=0)]
        if pattern.causal:
            blocks = blocks.masked_fill(blocks > own[:, None], -1)
        blocks = blocks.masked_fill(own[:, None] < 0, -1)
        inside = torch.arange(rows, device=blocks.device)
        index = (blocks[..., None] * rows + inside).flatten(-2)
        valid = (index >= 0) & (index < pattern.key_len)
        index = index.clamp(0, pattern.key_len - 1)
        bias = tile.take(self.key_bias, index).masked_fill_(~valid, -torch.inf)
        return index, bias[:, :, None]

    def pieces(self, start: int, stop: int) -> tuple[list[tile.Piece], Tensor | None]:
        """Pieces for tiles start..stop, and the key indices of the random one."""
        bias = self.shared_bias
        first = self.band_start(start)
        last = self.band_start(stop - 1) + self.grid.band
        inside = self.front + self.pattern.leading <= first and last <= (
            self.front + self.pattern.key_len - self.pattern.trailing
        )
        if self.anything_hidden or not inside:
            edges = self._windows(self.band_hidden, start, stop)[:, :, None]
            bias = edges if bias is None else edges + bias
        pieces = [
            tile.Piece(
                self._windows(self.band_key, start, stop),
                self._windows(self.band_value, start, stop),
                bias,
            )
        ]
        if len(self.global_keys):
            shown = self.global_keys
            hidden = self.key_bias[:, None, None, shown] if self.anything_hidden else None
            pieces.append(tile.Piece(self.key[:, None, shown], self.value[:, None, shown], hidden))
        index = None
        if self.random is not None:
            index, hidden = self.random_keys(start, stop)
            keys, values = tile.take(self.key, index), tile.take(self.value, index)
            pieces.append(tile.Piece(keys, values, hidden))
        return pieces, index

    def tiles_at_once(self) -> int:
        """Tiles whose scores fit the budget."""
        draws = 0 if self.random is None else self.random.shape[-1] * self.grid.rows
        keys = self.grid.band + len(self.global_keys) + draws
        budget = SCORES_GPU if self.key.device.type == "cuda" else SCORES_CPU
        return max(1, budget // (len(self.key) * self.grid.rows * keys))


def _tiles(tensor: Tensor, grid: _Grid, first: int, last: int) -> Tensor:
    """Rows first..last of a slab as (slab, tiles, rows, ...), padded with zeros at both ends."""
    tail = grid.tiles * grid.rows - grid.lead - (last - first)
    rows = tensor[:, first:last]
    if grid.lead or tail:
        rows = pad(rows, (*(0, 0) * (tensor.ndim - 2), grid.lead, tail))
    return rows.unflatten(1, (grid.tiles, grid.rows))


class _Middle(torch.autograd.Function):
    """Rows `first` to `last`, none of them global."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pattern: Pattern,
        key_padding_mask: Tensor | None,
        scale: float,
        first: int,
        last: int,
    ) -> Tensor:
        batch, heads, _, head_dim = query.shape
        grid = _Grid.of(pattern, first, last)
        out = query.new_empty(batch * heads, last - first, head_dim)
        lse = query.new_empty(out.shape[:2], dtype=compute_dtype(query.dtype))
        stop = grid.lead + last - first
        for slab, _, head in _heads(query, key, value, pattern, key_padding_mask, grid):
            tiles = _tiles(query.flatten(0, 1)[slab], grid, first, last)
            for start in range(0, grid.tiles, step := head.tiles_at_once()):
                end = min(start + step, grid.tiles)
                pieces, _ = head.pieces(start, end)
                part, part_lse = tile.forward(tile.working(tiles[:, start:end]) * scale, pieces)
                low, high = max(start * grid.rows, grid.lead), min(end * grid.rows, stop)
                inner = slice(low - start * grid.rows, high - start * grid.rows)
                outer = slice(low - grid.lead, high - grid.lead)
                out[slab, outer] = part.flatten(1, 2)[:, inner]
                lse[slab, outer] = part_lse.flatten(1, 2)[:, inner]
        out = out.unflatten(0, (batch, heads))
        ctx.save_for_backward(query, key, value, out, lse, key_padding_mask)
        ctx.arguments = pattern, scale, first, last
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_out,) = grads
        query, key, value, out, lse, key_padding_mask = ctx.saved_tensors
        pattern, scale, first, last = ctx.arguments
        grid = _Grid.of(pattern, first, last)
        dtype = compute_dtype(query.dtype)
        grad_query = torch.zeros_like(query, memory_format=torch.contiguous_format)
        grad_key = key.new_zeros(key.shape, dtype=dtype)
        grad_value = value.new_zeros(value.shape, dtype=dtype)
        delta = (out.to(dtype) * grad_out.to(dtype)).sum(-1).flatten(0, 1)
        stop = grid.lead + last - first
        for slab, kv, head in _heads(query, key, value, pattern, key_padding_mask, grid):
            tiles = _tiles(query.flatten(0, 1)[slab], grid, first, last)
            span = (0, last - first)
            grad_tiles = _tiles(grad_out.flatten(0, 1)[slab], grid, *span)
            lse_tiles = _tiles(lse[slab], grid, *span)
            delta_tiles = _tiles(delta[slab], grid, *span)
            shape = (*head.band_key.shape[:2], query.shape[-1])
            band_grads = [key.new_zeros(shape, dtype=dtype) for _ in range(2)]
            own_grads = [g.flatten(0, 1)[kv] for g in (grad_key, grad_value)]
            for start in range(0, grid.tiles, step := head.tiles_at_once()):
                end = min(start + step, grid.tiles)
                pieces, index = head.pieces(start, end)
                part, piece_grads = tile.backward(
                    tile.working(tiles[:, start:end]) * scale,
                    pieces,
                    lse_tiles[:, start:end],
                    tile.working(grad_tiles[:, start:end]),
                    delta_tiles[:, start:end],
                )
                low, high = max(start * grid.rows, grid.lead), min(end * grid.rows, stop)
                inner = slice(low - start * grid.rows, high - start * grid.rows)
                outer = slice(low - grid.lead + first, high - grid.lead + first)
                grad_query.flatten(0, 1)[slab, outer] = part.flatten(1, 2)[:, inner] * scale
                for which in range(2):
                    _add_windows(band_grads[which], piece_grads[0][which], head, start)
                    if len(head.global_keys):
                        share = piece_grads[1][which].sum(1)
                        own_grads[which].index_add_(1, head.global_keys, share)
                    if index is not None:
                        tile.add(own_grads[which], index, piece_grads[-1][which])
            for own, band in zip(own_grads, band_grads, strict=True):
                own += band[:, head.front : head.front + key.shape[2]]
        return (
            grad_query,
            grad_key.to(key.dtype),
            grad_value.to(value.dtype),
            *(None,) * 5,
        )


def _heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Pattern,
    key_padding_mask: Tensor | None,
    grid: _Grid,
) -> Iterator[tuple[slice, slice, _Head]]:
    """Each slab of query heads, the slab of key heads it reads, and those keys and values."""
    batch, heads, _, _ = query.shape
    for slab, kv in tile.head_slabs(batch, heads, key.shape[1], query.device):
        hidden = None
        if key_padding_mask is not None:
            owners = torch.arange(slab.start, slab.stop, device=query.device) // heads
            hidden = key_padding_mask[owners]
        keys, values = key.flatten(0, 1)[kv], value.flatten(0, 1)[kv]
        yield slab, kv, _Head(keys, values, hidden, pattern, grid, slab, heads)


def _add_windows(total: Tensor, windows: Tensor, head: _Head, start: int) -> None:
    """Add gradients (slab, tiles, band, head_dim) of overlapping windows back onto the keys."""
    rows, count = head.grid.rows, windows.shape[1]
    for shift in range(0, head.grid.band, rows):
        width = min(rows, head.grid.band - shift)
        first = head.band_start(start) + shift
        # The last window may be narrower than a tile: its neighbours do not overlap it.
        target = total[:, first : first + (count - 1) * rows + width]
        target.as_strided(
            (len(total), count, width, total.shape[-1]),
            (total.stride(0), rows * total.stride(1), total.stride(1), 1),
            target.storage_offset(),
        ).add_(windows[:, :, shift : shift + width])
