"""Which keys a tile of query rows is set against, for each kind of pattern.

A layout cuts the rows `first` to `last` into tiles of `rows` rows and gives each tile `keys` slots
for keys. It copies keys or values into the slots, hides what a row does not see, and adds gradients
of the slots back onto the keys they came from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.pattern import Pattern
from variants.engines.heads import budget
from variants.engines.tile import HIDDEN, Scratch

ROWS = 64  # query rows of a tile of a band; more would score more keys that no row sees
DENSE_ROWS = 256  # least rows that are set against all keys together
SMALL = 1 << 21  # entries up to which the bias of a pattern is kept


class Layout(ABC):
    """How the rows `first` to `last` of the queries are cut into tiles."""

    first: int
    last: int
    rows: int
    keys: int
    lead: int = 0  # rows of padding in the first tile
    at_once: int = 1 << 40  # tiles that may be processed together

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return -(-(self.lead + self.last - self.first) // self.rows)

    def whole_blocks(self, tensor: Tensor) -> Tensor:
        """Keys or values (slab, key_len, channels) as `gather` reads them, padded if need be."""
        return tensor

    def span(self, steps: range) -> tuple[int, int]:
        """First and last row of some tiles; rows of padding stick out."""
        start = self.first + steps.start * self.rows - self.lead
        return start, start + len(steps) * self.rows

    @abstractmethod
    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        """Items of `tensor` (slab, key_len, channels) in the slots of the tiles `steps`,
        (slab, tiles, keys, channels)."""

    @abstractmethod
    def hide(self, scores: Tensor, steps: range, heads: slice, padding: Tensor | None) -> bool:
        """As `tile.Hide`; scores (slab, tiles, rows, keys), padding (slab, key_len)."""

    @abstractmethod
    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        """Add gradients of the slots onto `total` (slab, key_len, channels)."""


@lru_cache(maxsize=8)
def _corner(rows: int, dtype: torch.dtype, device: torch.device, *, above: bool) -> Tensor:
    """HIDDEN strictly above, or below, the diagonal of a (rows, rows) corner of the scores."""
    full = torch.full((rows, rows), HIDDEN, dtype=dtype, device=device)
    return full.triu_(1) if above else full.tril_(-1)


class Band(Layout):
    """A window of tokens around each row, and the global keys at both ends."""

    def __init__(self, pattern: Pattern, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.pattern = pattern
        self.reach = pattern.window
        self.rows = ROWS
        self.band = self.reach + self.rows + (0 if pattern.causal else self.reach)
        # No middle row stands as late as a trailing key, so a causal one never sees it.
        self.trailing = 0 if pattern.causal else pattern.trailing
        self.keys = self.band + pattern.leading + self.trailing

    def _span(self, steps: range) -> tuple[int, int]:
        """Positions that the bands of some tiles cover together; they may stick out."""
        start = self.first + self.pattern.offset + steps.start * self.rows - self.reach
        return start, start + (len(steps) - 1) * self.rows + self.band

    def _inside(self, steps: range, key_len: int) -> tuple[slice, int, int]:
        """The keys of that span, and how far it sticks out before the first and after the last."""
        start, stop = self._span(steps)
        low = min(max(start, 0), key_len)
        high = min(max(stop, low), key_len)
        before = min(max(low - start, 0), stop - start)
        return slice(low, high), before, stop - start - before - (high - low)

    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        slab, key_len, channels = tensor.shape
        slots = scratch(name, (slab, len(steps), self.keys, channels), tensor.dtype)
        inside, before, after = self._inside(steps, key_len)
        piece = tensor[:, inside]
        if before or after:
            piece = pad(piece, (0, 0, before, after))
        slots[:, :, : self.band] = piece.unfold(1, self.band, self.rows).transpose(-2, -1)
        if self.keys > self.band:
            leading = self.pattern.leading
            slots[:, :, self.band : self.band + leading] = tensor[:, None, :leading]
            slots[:, :, self.band + leading :] = tensor[:, None, key_len - self.trailing :]
        return slots

    def hide(self, scores: Tensor, steps: range, heads: slice, padding: Tensor | None) -> bool:
        pattern, rows = self.pattern, self.rows
        right = self.band - rows
        scores[..., :rows].add_(_corner(rows, scores.dtype, scores.device, above=False))
        scores[..., right : right + rows].add_(
            _corner(rows, scores.dtype, scores.device, above=True)
        )
        start, stop = self._span(steps)
        # Global keys have slots of their own, so the band leaves them out.
        low, high = pattern.leading, pattern.key_len - pattern.trailing
        if low <= start and stop <= high and padding is None:
            return False
        positions = torch.arange(start, stop, device=scores.device)
        inside = (positions >= low) & (positions < high)
        bias = scores.new_zeros(len(scores) if padding is not None else 1, len(steps), self.keys)
        windows = inside.unfold(0, self.band, rows)
        bias[..., : self.band].masked_fill_(~windows, HIDDEN)
        if padding is not None:
            # Only the mask of the slots is wanted: a scratch of its own.
            slots = self.gather(padding[..., None], steps, heads, "", Scratch(scores.device))
            bias.masked_fill_(slots[..., 0], HIDDEN)
        scores.add_(bias[:, :, None])
        return padding is not None or pattern.offset < 0

    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        key_len = total.shape[1]
        start, stop = self._span(steps)
        spread = total.new_zeros(len(total), stop - start, total.shape[2])
        for shift in range(0, self.band, self.rows):
            width = min(self.rows, self.band - shift)
            # Those of one shift do not overlap.
            target = spread[:, shift : shift + (len(steps) - 1) * self.rows + width]
            target.unfold(1, width, self.rows).add_(
                grads[:, :, shift : shift + width].transpose(-2, -1)
            )
        inside, before, after = self._inside(steps, key_len)
        total[:, inside] += spread[:, before : stop - start - after]
        leading = self.pattern.leading
        total[:, :leading] += grads[:, :, self.band : self.band + leading].sum(1)
        total[:, key_len - self.trailing :] += grads[:, :, self.band + leading :].sum(1)


class Blocks(Layout):
    """Whole blocks of keys: near, global and random ones of each block of rows."""

    def __init__(
        self, pattern: Pattern, first: int, last: int, heads: int, device: torch.device
    ) -> None:
        self.first, self.last = first, last
        self.pattern = pattern
        size = self.rows = pattern.block_size
        position = first + pattern.offset
        self.lead = position % size
        self.blocks = -(-pattern.key_len // size)
        front, back = pattern.leading // size, -(-pattern.trailing // size)
        own = position // size + torch.arange(self.tiles, device=device)[:, None]
        near = torch.arange(
            -pattern.window, (0 if pattern.causal else pattern.window) + 1, device=device
        )
        near = own + near
        # Global blocks have slots of their own, so the neighbourhood leaves them out.
        near = near.masked_fill((near < front) | (near >= self.blocks - back), -1)
        ends = torch.arange(front, device=device)
        if not pattern.causal:
            # No middle row stands as late as a trailing block, so a causal one never sees it.
            ends = torch.cat([ends, torch.arange(self.blocks - back, self.blocks, device=device)])
        parts = [near, ends.expand(self.tiles, -1)]
        chosen = torch.cat(parts, dim=-1).expand(heads, -1, -1)
        if pattern.random_blocks is not None:
            drawn = pattern.random_blocks[:, own[:, 0].clamp(0, self.blocks - 1)]
            late = (drawn > own) if pattern.causal else torch.zeros_like(drawn, dtype=torch.bool)
            chosen = torch.cat([chosen, drawn.masked_fill(late | (own < 0), -1)], dim=-1)
        self.chosen = chosen  # (heads, tiles, slots) block numbers, -1 for none
        self.keys = chosen.shape[-1] * size
        ragged = pattern.key_len % size > 0
        partial = (chosen < 0) | (ragged & (chosen == self.blocks - 1))
        # Known once for all, so that no tile has to wait for a device.
        self.partial = partial.any(-1).any(0).tolist()

    def _chosen(self, steps: range, heads: slice) -> Tensor:
        """Blocks (slab, tiles, slots) of some tiles; heads are counted over the batch."""
        which = torch.arange(heads.start, heads.stop, device=self.chosen.device)
        return self.chosen[which % len(self.chosen), steps.start : steps.stop]

    def _flat(self, steps: range, heads: slice, *, shared: bool = False) -> Tensor:
        """Blocks of some tiles, numbered over the slab; or over the one head that it shares."""
        chosen = self._chosen(steps, heads).clamp(min=0)
        if not shared:
            offsets = torch.arange(len(chosen), device=chosen.device) * self.blocks
            chosen = chosen + offsets[:, None, None]
        return chosen.flatten()

    def whole_blocks(self, tensor: Tensor) -> Tensor:
        missing = self.blocks * self.rows - tensor.shape[1]
        return pad(tensor, (0, 0, 0, missing)) if missing else tensor

    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        slab, _, channels = tensor.shape
        size = self.rows
        shared = slab > 1 and tensor.stride(0) == 0
        tensor = self.whole_blocks(tensor[:1] if shared else tensor)
        slots = scratch(name, (slab, len(steps), self.keys, channels), tensor.dtype)
        torch.index_select(
            tensor.reshape(len(tensor) * self.blocks, size * channels),
            0,
            self._flat(steps, heads, shared=shared),
            out=slots.view(-1, size * channels),
        )
        return slots

    def hide(self, scores: Tensor, steps: range, heads: slice, padding: Tensor | None) -> bool:
        pattern, size = self.pattern, self.rows
        if pattern.causal:
            own = slice(pattern.window * size, (pattern.window + 1) * size)
            scores[..., own].add_(_corner(size, scores.dtype, scores.device, above=True))
        if padding is None and not any(self.partial[steps.start : steps.stop]):
            return False
        chosen = self._chosen(steps, heads)
        keys = chosen[..., None] * size + torch.arange(size, device=chosen.device)
        hidden = ((keys < 0) | (keys >= pattern.key_len)).flatten(-2)
        if padding is not None:
            slots = self.gather(padding[..., None].byte(), steps, heads, "", Scratch(scores.device))
            hidden = hidden | (slots[..., 0] > 0)
        scores.add_(
            torch.zeros_like(hidden, dtype=scores.dtype).masked_fill_(hidden, HIDDEN)[:, :, None]
        )
        return padding is not None or pattern.offset < 0

    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        slab, key_len, channels = total.shape
        size = self.rows
        target = self.whole_blocks(total)
        # Slots without a block were hidden: their gradient is 0 wherever it goes.
        target.view(slab * self.blocks, size * channels).index_add_(
            0, self._flat(steps, heads), grads.reshape(-1, size * channels).to(total.dtype)
        )
        if target is not total:
            total.copy_(target[:, :key_len])


@lru_cache(maxsize=8)
def _pattern_bias(
    pattern: Pattern, start: int, stop: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """HIDDEN (heads or 1, rows, key_len) where rows start..stop do not see a key."""
    hidden = ~pattern.mask(torch.arange(start, stop, device=device))
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)


class Everything(Layout):
    """All keys, or all up to the last row of a tile; tiles come one at a time."""

    def __init__(
        self,
        query_len: int,
        key_len: int,
        first: int,
        last: int,
        *,
        causal: bool,
        device: torch.device,
        pattern: Pattern | None = None,
    ) -> None:
        self.first, self.last, self.at_once = first, last, 1
        self.query_len, self.keys, self.causal, self.pattern = query_len, key_len, causal, pattern
        rows = budget(device, torch.float32) // key_len
        if causal:
            rows = min(rows, DENSE_ROWS)  # so that later keys can be left out
        self.rows = max(1, min(last - first, max(DENSE_ROWS, rows)))

    def _stop(self, steps: range) -> int:
        """Keys that the last row of a tile can see, at least one."""
        end = min(self.first + steps.stop * self.rows, self.last)
        return (
            max(1, min(self.keys, end + self.keys - self.query_len)) if self.causal else self.keys
        )

    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        return tensor[:, None, : self._stop(steps)]

    def hide(self, scores: Tensor, steps: range, heads: slice, padding: Tensor | None) -> bool:
        offset = self.keys - self.query_len
        start = self.first + steps.start * self.rows
        shown = scores.shape[-1]
        own = start + offset
        if self.causal and self.pattern is None:
            # Only the corner behind the first row's own key is in question.
            corner = _corner(self.rows, scores.dtype, scores.device, above=True)
            scores[..., own:].add_(corner[:, : shown - own])
        if self.pattern is not None:
            stop = min(start + self.rows, self.query_len)
            drawn = self.pattern.random_blocks
            size = self.query_len * self.keys * (1 if drawn is None else len(drawn))
            small = size <= SMALL
            make = _pattern_bias if small else _pattern_bias.__wrapped__
            bias = make(self.pattern, start, stop, scores.dtype, scores.device)[..., :shown]
            if len(bias) > 1:
                which = torch.arange(heads.start, heads.stop, device=scores.device) % len(bias)
                bias = bias if len(bias) == len(which) else bias[which]
            scores[:, 0, : stop - start].add_(bias)
        if padding is not None:
            bias = torch.zeros(padding.shape, dtype=scores.dtype, device=scores.device)
            scores.add_(bias.masked_fill_(padding, HIDDEN)[:, None, None, :shown])
        return padding is not None or offset < 0

    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        total[:, : grads.shape[2]] += grads[:, 0]
