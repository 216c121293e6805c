"""A description of the keys that a query sees. Kernels, definitions and pictures use it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pattern:
    """A band, global positions and random blocks, over `key_len` keys and `query_len` queries.

    A query at position p sees the key at position j if any of these holds:

    * |p // block_size - j // block_size| <= window (with block_size 1 the window counts tokens);
    * j or, with `global_rows`, p is one of the first `leading` or the last `trailing` positions;
    * j // block_size is one of `random_blocks[head, p // block_size]`.

    If `causal`, j <= p must also hold. Queries before the first key (query_len > key_len) have
    negative positions and no random blocks.
    """

    query_len: int
    key_len: int
    causal: bool
    window: int
    block_size: int = 1
    leading: int = 0
    trailing: int = 0
    global_rows: bool = True
    random_blocks: Tensor | None = None  # int64 (heads, blocks, draws); -1 is no block

    @property
    def offset(self) -> int:
        """Position of the first query."""
        return self.key_len - self.query_len

    def is_global(self, positions: Tensor) -> Tensor:
        """Whether positions are among the first or last: bool with the shape of `positions`."""
        return (positions < self.leading) & (positions >= 0) | (
            positions >= self.key_len - self.trailing
        )

    def sees(self, heads: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether queries of these heads at these positions see these keys: a bool for each
        element of three index tensors that broadcast. Elements are computed independently, so a
        compiler can use this function in a kernel."""
        query_block = queries // self.block_size
        key_block = keys // self.block_size
        seen = (query_block - key_block).abs() <= self.window
        if self.leading or self.trailing:
            seen = seen | self.is_global(keys)
            if self.global_rows:
                seen = seen | self.is_global(queries)
        if self.random_blocks is not None:
            drawn = query_block.clamp(min=0)
            for draw in range(self.random_blocks.shape[-1]):
                # Index with tensors only: torch 2.10 does not compile an index that mixes tensors
                # and numbers.
                block = self.random_blocks[..., draw][heads, drawn]
                seen = seen | ((block == key_block) & (queries >= 0))
        return seen & (keys <= queries) if self.causal else seen

    def mask(self, rows: Tensor) -> Tensor:
        """Bool (heads or 1, len(rows), key_len): True where the query row sees the key."""
        drawn = 1 if self.random_blocks is None else len(self.random_blocks)
        heads = torch.arange(drawn, device=rows.device)[:, None, None]
        queries = (rows + self.offset)[None, :, None]
        return self.sees(heads, queries, torch.arange(self.key_len, device=rows.device))

    def covers_everything(self) -> bool:
        """Whether the band contains every query-key pair."""
        farthest = max(self.key_len, self.query_len) - 1
        return self.window * self.block_size >= farthest

    def pairs(self) -> float:
        """Query-key pairs seen by one head, averaged over heads; linear in time and memory."""
        positions = torch.arange(self.query_len, device="cpu") + self.offset
        last = positions if self.causal else torch.full_like(positions, self.key_len - 1)
        last = last.clamp(max=self.key_len - 1)
        block = positions.div(self.block_size, rounding_mode="floor")
        left = ((block - self.window) * self.block_size).clamp(min=0)
        right = torch.minimum((block + self.window + 1) * self.block_size - 1, last)
        everything = (last + 1).clamp(min=0)
        head = self.leading
        tail = self.key_len - self.trailing
        # The band outside the global keys, then the global keys up to the last visible key.
        band = (torch.clamp(right, max=tail - 1) - torch.clamp(left, min=head) + 1).clamp(min=0)
        first = torch.clamp(last + 1, max=head).clamp(min=0)
        final = (last + 1 - max(tail, head)).clamp(min=0)
        seen = (band + first + final).double()
        if self.random_blocks is not None:
            drawn = self.random_blocks.cpu()[:, block.clamp(min=0)]
            start = drawn * self.block_size
            stop = torch.minimum(start + self.block_size, last[:, None] + 1)
            width = (stop - start).clamp(min=0) * (drawn >= 0) * (positions >= 0)[:, None]
            seen = seen + width.sum(-1).double().mean(0)
        if self.global_rows:
            seen = torch.where(self.is_global(positions), everything.double(), seen)
        return float(seen.sum())
