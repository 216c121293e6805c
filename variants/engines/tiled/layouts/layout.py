"""The interface of a layout, which lists the keys of each tile of query rows.

A layout cuts the query rows `first` to `last` into tiles of `rows` rows, and gives each tile `keys`
slots for keys. It copies keys or values into the slots, hides keys that a row does not see, and
adds the gradients of the slots to the gradients of the copied keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from variants.contract.tensor_cache import cached
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.tiled.relative_bias import KeyRuns


class Layout(ABC):
    """Cuts the query rows `first` to `last` into tiles."""

    first: int
    last: int
    rows: int
    keys: int
    lead: int = 0  # rows of padding in the first tile
    at_once: int = 1 << 40  # tiles that may be processed together
    heads: range | None = None  # the heads of each sequence that use the layout; None = all

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return -(-(self.lead + self.last - self.first) // self.rows)

    def whole_blocks(self, tensor: Tensor) -> Tensor:
        """Keys or values (slab, key_len, channels) as `gather` reads them, padded if necessary."""
        return tensor

    def span(self, steps: range) -> tuple[int, int]:
        """First row and end of some tiles, including rows of padding outside `first` to `last`."""
        start = self.first + steps.start * self.rows - self.lead
        return start, start + len(steps) * self.rows

    @abstractmethod
    def gather(
        self, tensor: Tensor, steps: range, heads: slice, name: str, scratch: Scratch
    ) -> Tensor:
        """Copy rows of `tensor` (slab, key_len, channels) into the slots of the tiles `steps`,
        (slab, tiles, keys, channels)."""

    @abstractmethod
    def hide(self, scores: Tensor, steps: range, heads: slice, key_bias: Tensor | None) -> bool:
        """Hide scores (slab, tiles, rows, keys) as `softmax_tile.Hide` requires. Adds `key_bias`
        (slab, key_len), which is HIDDEN for a key that no row sees."""

    @abstractmethod
    def scatter(self, grads: Tensor, total: Tensor, steps: range, heads: slice) -> None:
        """Add gradients of the slots to `total` (slab, key_len, channels)."""

    @abstractmethod
    def key_runs(self, steps: range, heads: slice, device: torch.device) -> Iterator[KeyRuns]:
        """The runs of keys in the slots of the tiles `steps`. Slots without a key may be in any
        run."""

    def slot_bias(self, key_bias: Tensor, steps: range, heads: slice, dtype: torch.dtype) -> Tensor:
        """`key_bias` in the slots of some tiles, (slab, tiles, keys)."""
        wide = key_bias.to(dtype)[..., None]
        return self.gather(wide, steps, heads, "", Scratch(key_bias.device))[..., 0]


@cached
def corner(rows: int, dtype: torch.dtype, device: torch.device, *, above: bool) -> Tensor:
    """Bias for a (rows, rows) corner of the scores: HIDDEN strictly above or below the diagonal."""
    full = torch.full((rows, rows), HIDDEN, dtype=dtype, device=device)
    return full.triu_(1) if above else full.tril_(-1)
