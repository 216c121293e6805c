"""The layout of strided keys: each key represents `stride` consecutive tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.engines.primitives.softmax_tile import HIDDEN
from variants.engines.tiled.layouts.all_keys import AllKeys, dense_rows


class Strided(AllKeys):
    """One key for every `stride` of the `tokens` positions. If causal, a row sees the keys that
    represent no later position than its own."""

    def __init__(
        self,
        query_len: int,
        tokens: int,
        stride: int,
        first: int,
        last: int,
        *,
        causal: bool,
        device: torch.device,
    ) -> None:
        self.first, self.last, self.at_once = first, last, 1
        self.begin, self.keys = 0, -(-tokens // stride)
        self.offset, self.causal, self.pattern = tokens - query_len, causal, None
        self.tokens, self.stride = tokens, stride
        # The number of visible keys grows by one every `stride` rows, so tiles can be large.
        self.rows = dense_rows(last - first, self.keys, causal=False, device=device)

    def _stop(self, steps: range) -> int:
        if not self.causal:
            return self.keys
        end = min(self.first + steps.stop * self.rows, self.last) + self.offset
        return max(1, self.keys if end >= self.tokens else end // self.stride)

    def _hide_later(self, scores: Tensor, start: int, heads: slice) -> None:
        if not self.causal:
            return
        shown = scores.shape[-1]
        device = scores.device
        # The first row sees the keys before `own`, so every row of the tile sees them.
        own = max(0, start + self.offset + 1) // self.stride
        ends = (torch.arange(own, shown, device=device) + 1) * self.stride - 1
        ends = ends.clamp(max=self.tokens - 1)
        positions = torch.arange(start, start + self.rows, device=device) + self.offset
        hidden = (ends > positions[:, None]).to(scores.dtype)
        scores[..., own:].add_(hidden, alpha=HIDDEN)

    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        return super().hide(scores, steps, heads, key_bias) or self.causal
