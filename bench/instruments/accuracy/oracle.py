"""Exact softmax attention of some query rows in float64, computed over blocks of keys.

Rows are independent of each other, so a sample of rows costs O(rows·n·d) time; all rows would cost
O(n²·d). One block of keys at a time needs O(rows·block) memory at any length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.definitions import expand_heads, query_positions

PAIRS = 1 << 22  # scores in a block, all heads together: 32 MiB in float64


@dataclass(frozen=True)
class Scores:
    """Scaled scores of the rows and one block of keys; -inf for hidden keys."""

    keys: slice
    scores: Tensor  # float64 (batch, heads, rows, keys)
    visible: Tensor  # bool (rows, keys)


def score_blocks(
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
    pairs: int = PAIRS,
) -> Iterator[Scores]:
    """Yield the scores of query rows for each block of keys, up to the last visible key.

    Args:
        query: (batch, heads, query_len, head_dim), any dtype.
        key: (batch, kv_heads, key_len, head_dim).
        rows: int64 (rows,), indices of queries.
        scale: factor on the query; None means 1 / sqrt(head_dim).
        pairs: maximum number of scores in a block; a block has at least one key.
    """
    batch, heads, query_len, head_dim = query.shape
    key_len = key.shape[2]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    asked = query[:, :, rows].double() * scale
    positions = query_positions(rows, query_len, key_len)
    end = min(key_len, max(int(positions.max()) + 1, 1)) if causal else key_len
    block = max(1, pairs // (batch * heads * len(rows)))
    for start in range(0, end, block):
        keys = slice(start, min(start + block, end))
        indices = torch.arange(keys.start, keys.stop, device=rows.device)
        scores = asked @ expand_heads(key[:, :, keys].double(), heads).transpose(-2, -1)
        seen = torch.ones(len(rows), len(indices), dtype=torch.bool, device=rows.device)
        if causal:
            seen = indices <= positions[:, None]
            scores = scores.masked_fill_(~seen, -torch.inf)
        yield Scores(keys, scores, seen)


@dataclass(frozen=True)
class Exact:
    """Exact attention of some rows."""

    out: Tensor  # float64 (batch, heads, rows, head_dim); 0 for a row without visible keys
    log_total: Tensor  # (batch, heads, rows): log-sum-exp of the scores; -inf without visible keys

    def weights(self, block: Scores) -> Tensor:
        """Exact attention weights on the keys of a block, (batch, heads, rows, keys)."""
        total = self.log_total.masked_fill(self.log_total == -torch.inf, torch.inf)
        return (block.scores - total[..., None]).exp()


def exact(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
    pairs: int = PAIRS,
) -> Exact:
    """Exact attention of query rows; arguments as for `score_blocks`, value like key."""
    batch, heads = query.shape[:2]
    shape = (batch, heads, len(rows))
    highest = torch.full(shape, -torch.inf, dtype=torch.float64, device=query.device)
    total = torch.zeros_like(highest)
    out = total.new_zeros(*shape, value.shape[-1])
    for block in score_blocks(query, key, rows, causal=causal, scale=scale, pairs=pairs):
        risen = torch.maximum(highest, block.scores.amax(-1))
        base = risen.masked_fill(risen == -torch.inf, 0)  # rows without a visible key so far
        kept = (highest - base).exp()
        kernel = (block.scores - base[..., None]).exp_()
        values = expand_heads(value[:, :, block.keys].double(), heads)
        total = total * kept + kernel.sum(-1)
        out = out * kept[..., None] + kernel @ values
        highest = risen
    return Exact(out / total.clamp(min=1e-300)[..., None], highest + total.log())
