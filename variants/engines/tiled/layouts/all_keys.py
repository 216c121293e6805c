"""The layout of all keys: tiles of many rows, each with every key that its rows may see."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached
from variants.engines.primitives.head_slabs import budget
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.tiled.layouts.layout import Layout, corner
from variants.engines.tiled.relative_bias import KeyRuns

DENSE_ROWS = 256  # fewest rows of a tile with all keys
TYPICAL_WIDTH = 64
SMALL = 1 << 21  # entries up to which the bias of a pattern is cached


class AllKeys(Layout):
    """All keys from `begin` on; if causal, the keys up to the position of a tile's last row. Tiles
    are processed one at a time."""

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
        begin: int = 0,
    ) -> None:
        self.first, self.last, self.at_once = first, last, 1
        self.begin, self.keys = begin, key_len - begin
        self.offset, self.causal, self.pattern = key_len - query_len, causal, pattern
        self.rows = dense_rows(last - first, self.keys, causal=causal, device=device)

    def _stop(self, steps: range) -> int:
        """Number of slots that the last row of a tile can see, at least one."""
        if not self.causal:
            return self.keys
        end = min(self.first + steps.stop * self.rows, self.last)
        return max(1, min(self.keys, end + self.offset - self.begin))

    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        return tensor[:, None, self.begin : self.begin + self._stop(steps)]

    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        self._hide_later(scores, self.first + steps.start * self.rows, heads)
        if key_bias is not None:
            scores.add_(self.slot_bias(key_bias, steps, heads, scores.dtype)[:, :, None])
        return key_bias is not None or self.offset < 0

    def _hide_later(self, scores: Tensor, start: int, heads: slice) -> None:
        """Hide the keys that rows do not see, in a tile whose first row is `start`."""
        shown = scores.shape[-1]
        if self.causal and self.pattern is None:
            # Only keys after the position of the first row can be hidden.
            own = start + self.offset - self.begin
            later = corner(self.rows, scores.dtype, scores.device, above=True)
            scores[..., own:].add_(later[:, : shown - own])
        if self.pattern is not None:
            stop = min(start + self.rows, self.last)
            drawn = self.pattern.random_blocks
            size = self.pattern.query_len * self.keys * (1 if drawn is None else len(drawn))
            make = _pattern_bias if size <= SMALL else _pattern_bias.function
            bias = make(self.pattern, start, stop, scores.dtype, scores.device)[..., :shown]
            if len(bias) > 1:
                which = torch.arange(heads.start, heads.stop, device=scores.device) % len(bias)
                bias = bias if len(bias) == len(which) else bias[which]
            scores[:, 0, : stop - start].add_(bias)

    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        total[:, self.begin : self.begin + grads.shape[2]] += grads[:, 0]

    def key_runs(self, steps: range, heads: slice, device: torch.device) -> Iterator[KeyRuns]:
        yield KeyRuns(0, self._stop(steps), self.begin - self.span(steps)[0])


@cached
def _pattern_bias(
    pattern: Pattern, start: int, stop: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Bias (heads or 1, rows, key_len), HIDDEN where rows `start` to `stop` do not see a key."""
    hidden = ~pattern.mask(torch.arange(start, stop, device=device))
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)


def dense_rows(rows: int, keys: int, *, causal: bool, device: torch.device) -> int:
    """Number of rows of a tile with many keys."""
    # The width of a head is not known here.
    at_once = budget(device, torch.float32, TYPICAL_WIDTH * rows) // keys
    if causal:
        at_once = min(at_once, DENSE_ROWS)  # so that later keys can be left out
    return max(1, min(rows, max(DENSE_ROWS, at_once)))
