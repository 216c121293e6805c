"""The layout of a window: consecutive keys around each tile, and keys at both ends of the list that
every row sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.pattern import Pattern
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.tiled.layouts.layout import Layout, corner
from variants.engines.tiled.relative_bias import KeyRuns

ROWS = 64  # query rows of a tile; with more rows, more scores are hidden


class Window(Layout):
    """Tile t covers `rows` positions from first + t * rows - lead + offset on. Its band has the
    keys from `before` keys before the first of these positions to `after` keys after the last.

    If `sliding`, the visible keys move by one with each row of a tile, as in a window of tokens.
    Otherwise all rows of a tile see the same keys, except later keys if `causal`. The first
    `leading` and the last `trailing` keys of the list have their own slots. The band does not
    contain these keys, so that each key counts once.
    """

    def __init__(
        self,
        first: int,
        last: int,
        *,
        offset: int,
        key_len: int,
        rows: int,
        before: int,
        after: int,
        sliding: bool,
        causal: bool,
        leading: int = 0,
        trailing: int = 0,
        lead: int = 0,
    ) -> None:
        self.first, self.last, self.lead = first, last, lead
        self.offset, self.key_len = offset, key_len
        self.rows, self.before = rows, before
        self.sliding, self.causal = sliding, causal
        self.leading, self.trailing = leading, trailing
        self.band = before + rows + after
        self.keys = self.band + leading + trailing

    @classmethod
    def of(cls, pattern: Pattern, first: int, last: int) -> Window:
        """The window of tokens of a pattern."""
        return cls(
            first,
            last,
            offset=pattern.offset,
            key_len=pattern.key_len,
            rows=ROWS,
            before=pattern.window,
            after=0 if pattern.causal else pattern.window,
            sliding=True,
            causal=pattern.causal,
            leading=pattern.leading,
            # All causal rows of this layout are before the trailing keys.
            trailing=0 if pattern.causal else pattern.trailing,
        )

    def _span(self, steps: range) -> tuple[int, int]:
        """First position and end of the bands of some tiles; may lie outside of the keys."""
        start = self.first - self.lead + self.offset + steps.start * self.rows - self.before
        return start, start + (len(steps) - 1) * self.rows + self.band

    def _inside(self, steps: range, key_len: int) -> tuple[slice, int, int]:
        """The keys in the span, and its numbers of positions before the first and after the last
        key."""
        start, stop = self._span(steps)
        low = min(max(start, 0), key_len)
        high = min(max(stop, low), key_len)
        before = min(max(low - start, 0), stop - start)
        return slice(low, high), before, stop - start - before - (high - low)

    def _trailing(self, steps: range) -> int:
        """Number of trailing keys that some tiles see, counted from the first trailing key."""
        return self.trailing

    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        slab, key_len, channels = tensor.shape
        last = self._trailing(steps)
        keys = self.band + self.leading + last
        slots = scratch(name, (slab, len(steps), keys, channels), tensor.dtype)
        inside, before, after = self._inside(steps, key_len)
        piece = tensor[:, inside]
        if before or after:
            piece = pad(piece, (0, 0, before, after))
        slots[:, :, : self.band] = piece.unfold(1, self.band, self.rows).transpose(-2, -1)
        if keys > self.band:
            slots[:, :, self.band : self.band + self.leading] = tensor[:, None, : self.leading]
            trailing = tensor[:, None, key_len - self.trailing :]
            slots[:, :, self.band + self.leading :] = trailing[:, :, :last]
        return slots

    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        rows = self.rows
        right = self.band - rows
        if self.sliding:
            scores[..., :rows].add_(corner(rows, scores.dtype, scores.device, above=False))
        if self.sliding or self.causal:
            scores[..., right : right + rows].add_(
                corner(rows, scores.dtype, scores.device, above=True)
            )
        start, stop = self._span(steps)
        low, high = self.leading, self.key_len - self.trailing
        if low <= start and stop <= high and key_bias is None:
            return False
        positions = torch.arange(start, stop, device=scores.device)
        inside = (positions >= low) & (positions < high)
        bias = scores.new_zeros(1, len(steps), scores.shape[-1])
        windows = inside.unfold(0, self.band, rows)
        bias[..., : self.band].masked_fill_(~windows, HIDDEN)
        if key_bias is not None:
            bias = bias + self.slot_bias(key_bias, steps, heads, scores.dtype)
        scores.add_(bias[:, :, None])
        return key_bias is not None or self.offset < 0

    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        key_len = total.shape[1]
        start, stop = self._span(steps)
        spread = total.new_zeros(len(total), stop - start, total.shape[2])
        for shift in range(0, self.band, self.rows):
            width = min(self.rows, self.band - shift)
            # The windows of one shift do not overlap.
            target = spread[:, shift : shift + (len(steps) - 1) * self.rows + width]
            target.unfold(1, width, self.rows).add_(
                grads[:, :, shift : shift + width].transpose(-2, -1)
            )
        inside, before, after = self._inside(steps, key_len)
        total[:, inside] += spread[:, before : stop - start - after]
        ends = grads[:, :, self.band :].sum(1)
        total[:, : self.leading] += ends[:, : self.leading]
        trailing = total[:, key_len - self.trailing :]
        trailing[:, : self._trailing(steps)] += ends[:, self.leading :]

    def key_runs(self, steps: range, heads: slice, device: torch.device) -> Iterator[KeyRuns]:
        yield KeyRuns(0, self.band, self.offset - self.before)
        start, stop = self.span(steps)
        rows = torch.arange(start, stop, self.rows, device=device)[:, None]
        if self.leading:
            yield KeyRuns(self.band, self.leading, -rows[None])
        if last := self._trailing(steps):
            first = self.key_len - self.trailing
            yield KeyRuns(self.band + self.leading, last, (first - rows)[None])
