"""Which keys a tile of query rows is set against.

A layout cuts the rows `first` to `last` into tiles of `rows` rows and gives each tile `keys` slots
for keys. It copies keys or values into the slots, hides what a row does not see, and adds gradients
of the slots back onto the keys they came from. Here stand the layout's interface and the layout of
all keys; bands and listed blocks have files of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached
from variants.engines.primitives.head_slabs import budget
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.tiled.relative_bias import Stretch

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
    heads: range | None = None  # those of a sequence that it is for, all if None

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
    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        """As `tile.Hide`; scores (slab, tiles, rows, keys). Adds `key_bias` (slab, key_len), in
        which HIDDEN stands for a key that no row sees."""

    @abstractmethod
    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        """Add gradients of the slots onto `total` (slab, key_len, channels)."""

    @abstractmethod
    def stretches(self, steps: range, heads: slice, device: torch.device) -> Iterator[Stretch]:
        """Where the slots of the tiles `steps` stand; slots that hold no key may stand anywhere."""

    def slot_bias(self, key_bias: Tensor, steps: range, heads: slice, dtype: torch.dtype) -> Tensor:
        """`key_bias` in the slots of some tiles, (slab, tiles, keys)."""
        wide = key_bias.to(dtype)[..., None]
        return self.gather(wide, steps, heads, "", Scratch(key_bias.device))[..., 0]


@cached
def corner(rows: int, dtype: torch.dtype, device: torch.device, *, above: bool) -> Tensor:
    """HIDDEN strictly above, or below, the diagonal of a (rows, rows) corner of the scores."""
    full = torch.full((rows, rows), HIDDEN, dtype=dtype, device=device)
    return full.triu_(1) if above else full.tril_(-1)


@cached
def _pattern_bias(
    pattern: Pattern, start: int, stop: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """HIDDEN (heads or 1, rows, key_len) where rows start..stop do not see a key."""
    hidden = ~pattern.mask(torch.arange(start, stop, device=device))
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, HIDDEN)


class Everything(Layout):
    """All keys from `begin` on, or those up to the last row of a tile; tiles come one at a time."""

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
        """Slots that the last row of a tile can see, at least one."""
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
        """Hide what the rows of a tile, which begins with row `start`, do not see."""
        shown = scores.shape[-1]
        if self.causal and self.pattern is None:
            # Only the corner behind the first row's own key is in question.
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

    def stretches(self, steps: range, heads: slice, device: torch.device) -> Iterator[Stretch]:
        yield Stretch(0, self._stop(steps), self.begin - self.span(steps)[0])


class Strided(Everything):
    """As many keys as there are strides in `tokens` positions: each stands for `stride` of them and
    is seen, if causal, by rows from the last of these on."""

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
        # Later rows see but a key more now and then: tiles need not be cut small.
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
        # The first row sees those that end before `own`, so does every row of the tile.
        own = max(0, start + self.offset + 1) // self.stride
        ends = (torch.arange(own, shown, device=device) + 1) * self.stride - 1
        ends = ends.clamp(max=self.tokens - 1)
        positions = torch.arange(start, start + self.rows, device=device) + self.offset
        hidden = (ends > positions[:, None]).to(scores.dtype)
        scores[..., own:].add_(hidden, alpha=HIDDEN)

    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        return super().hide(scores, steps, heads, key_bias) or self.causal


def dense_rows(rows: int, keys: int, *, causal: bool, device: torch.device) -> int:
    """Rows of a tile that is set against many keys."""
    at_once = budget(device, torch.float32) // keys
    if causal:
        at_once = min(at_once, DENSE_ROWS)  # so that later keys can be left out
    return max(1, min(rows, max(DENSE_ROWS, at_once)))
