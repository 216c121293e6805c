"""The layout of block summaries: all keys of the near blocks, and one key for each other block."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.engines.primitives.softmax_tile import HIDDEN
from variants.engines.tiled.layouts.window import Window


class BlockSummaries(Window):
    """A block has as many tokens as a tile has rows. A tile sees the keys of its own block and of
    the adjacent blocks, and for every other block one key that represents the block. The list of
    keys has the `tokens` first, then one such key for each block. If causal, a tile sees no later
    block."""

    def __init__(
        self, query_len: int, tokens: int, block_size: int, first: int, *, causal: bool
    ) -> None:
        offset = tokens - query_len
        blocks = -(-tokens // block_size)
        super().__init__(
            first,
            query_len,
            offset=offset,
            key_len=tokens + blocks,
            rows=block_size,
            before=block_size,
            after=0 if causal else block_size,
            sliding=False,
            causal=causal,
            trailing=blocks,
            lead=(first + offset) % block_size,
        )

    def _own(self, step: int) -> int:
        """The block of a tile."""
        return (self.first - self.lead + self.offset) // self.rows + step

    def _trailing(self, steps: range) -> int:
        if not self.causal:
            return self.trailing
        return min(max(self._own(steps.stop - 1) - 1, 0), self.trailing)

    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        empty = super().hide(scores, steps, heads, key_bias)
        device = scores.device
        own = torch.arange(self._own(steps.start), self._own(steps.stop), device=device)[:, None]
        block = torch.arange(scores.shape[-1] - self.band, device=device)
        hidden = block >= own - 1
        if not self.causal:
            hidden &= block <= own + 1
        scores[..., self.band :].add_(hidden.to(scores.dtype)[:, None], alpha=HIDDEN)
        return empty
