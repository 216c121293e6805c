"""The layout of listed blocks: each tile has a list of the numbers of whole blocks of keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.pattern import Pattern
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.tiled.layouts.layout import Layout, corner
from variants.engines.tiled.relative_bias import KeyRuns


class KeyBlocks(Layout):
    """Blocks of `size` keys for each tile of `rows` rows.

    `chosen` are their numbers, int64 (heads or 1, tiles, slots), -1 for no block. If causal, `own`
    is the first slot of the keys at the tile's own positions; all other slots hold earlier keys.
    `may_be_empty` states whether a row may see no key even if no key is padding.
    """

    def __init__(
        self,
        chosen: Tensor,
        first: int,
        last: int,
        *,
        rows: int,
        size: int,
        lead: int,
        key_len: int,
        own: int | None,
        may_be_empty: bool,
    ) -> None:
        self.first, self.last, self.lead = first, last, lead
        self.rows, self.size, self.key_len = rows, size, key_len
        self.chosen, self.own, self.may_be_empty = chosen, own, may_be_empty
        self.blocks = -(-key_len // size)
        self.keys = chosen.shape[-1] * size
        ragged = key_len % size > 0
        partial = (chosen < 0) | (ragged & (chosen == self.blocks - 1))
        # Computed once for all tiles, so that no tile waits for the device.
        self.partial = partial.any(-1).any(0).tolist()

    @classmethod
    def of(
        cls, pattern: Pattern, first: int, last: int, heads: int, device: torch.device
    ) -> KeyBlocks:
        """The near, global and random blocks of a pattern, for each block of rows."""
        size = pattern.block_size
        position = first + pattern.offset
        lead = position % size
        blocks = -(-pattern.key_len // size)
        front, back = pattern.leading // size, -(-pattern.trailing // size)
        tiles = -(-(lead + last - first) // size)
        own = position // size + torch.arange(tiles, device=device)[:, None]
        near = torch.arange(
            -pattern.window, (0 if pattern.causal else pattern.window) + 1, device=device
        )
        near = own + near
        # Global blocks have their own slots, so they are removed from the near blocks.
        near = near.masked_fill((near < front) | (near >= blocks - back), -1)
        ends = torch.arange(front, device=device)
        if not pattern.causal:
            # The rows of this layout are before the trailing blocks: causal rows do not see these.
            ends = torch.cat([ends, torch.arange(blocks - back, blocks, device=device)])
        parts = [near, ends.expand(tiles, -1)]
        chosen = torch.cat(parts, dim=-1).expand(heads, -1, -1)
        if pattern.random_blocks is not None:
            drawn = pattern.random_blocks[:, own[:, 0].clamp(0, blocks - 1)]
            late = (drawn > own) if pattern.causal else torch.zeros_like(drawn, dtype=torch.bool)
            chosen = torch.cat([chosen, drawn.masked_fill(late | (own < 0), -1)], dim=-1)
        return cls(
            chosen,
            first,
            last,
            rows=size,
            size=size,
            lead=lead,
            key_len=pattern.key_len,
            own=pattern.window * size if pattern.causal else None,
            may_be_empty=pattern.offset < 0,
        )

    def _chosen(self, steps: range, heads: slice) -> Tensor:
        """Blocks (slab, tiles, slots) of some tiles; heads are counted over the batch."""
        which = torch.arange(heads.start, heads.stop, device=self.chosen.device)
        return self.chosen[which % len(self.chosen), steps.start : steps.stop]

    def _flat(self, steps: range, heads: slice, *, shared: bool = False) -> Tensor:
        """Blocks of some tiles, numbered over the slab; if `shared`, over one head."""
        chosen = self._chosen(steps, heads).clamp(min=0)
        if not shared:
            offsets = torch.arange(len(chosen), device=chosen.device) * self.blocks
            chosen = chosen + offsets[:, None, None]
        return chosen.flatten()

    def whole_blocks(self, tensor: Tensor) -> Tensor:
        missing = self.blocks * self.size - tensor.shape[1]
        return pad(tensor, (0, 0, 0, missing)) if missing else tensor

    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        slab, _, channels = tensor.shape
        shared = slab > 1 and tensor.stride(0) == 0
        tensor = self.whole_blocks(tensor[:1] if shared else tensor)
        slots = scratch(name, (slab, len(steps), self.keys, channels), tensor.dtype)
        torch.index_select(
            tensor.reshape(len(tensor) * self.blocks, self.size * channels),
            0,
            self._flat(steps, heads, shared=shared),
            out=slots.view(-1, self.size * channels),
        )
        return slots

    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        if self.own is not None:
            own = slice(self.own, self.own + self.rows)
            scores[..., own].add_(corner(self.rows, scores.dtype, scores.device, above=True))
        if any(self.partial[steps.start : steps.stop]):
            chosen = self._chosen(steps, heads)
            keys = chosen[..., None] * self.size + torch.arange(self.size, device=chosen.device)
            hidden = ((keys < 0) | (keys >= self.key_len)).flatten(-2).to(scores.dtype)
            scores.add_(hidden[:, :, None], alpha=HIDDEN)
        if key_bias is not None:
            scores.add_(self.slot_bias(key_bias, steps, heads, scores.dtype)[:, :, None])
        return key_bias is not None or self.may_be_empty

    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        slab, key_len, channels = total.shape
        target = self.whole_blocks(total)
        # Slots without a block are hidden: their gradient is 0, so any target is correct.
        target.view(slab * self.blocks, self.size * channels).index_add_(
            0, self._flat(steps, heads), grads.reshape(-1, self.size * channels).to(total.dtype)
        )
        if target is not total:
            total.copy_(target[:, :key_len])

    def key_runs(self, steps: range, heads: slice, device: torch.device) -> Iterator[KeyRuns]:
        rows = torch.arange(*self.span(steps), self.rows, device=device)[:, None]
        yield KeyRuns(0, self.size, self._chosen(steps, heads) * self.size - rows)
