"""Lists of the key blocks that each query block of a `Pattern` sees, for FlexAttention's
`BlockMask`. The work grows with the number of visible pairs of blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached


class Lists(NamedTuple):
    """The visible pairs of blocks, in the format of `BlockMask`.

    Each pair of tensors has the number of blocks of each row, int32 (1, heads or 1, rows), and
    their indices, int32 (1, heads or 1, rows, columns), which end with unused columns. The first
    two pairs list the key blocks of each query block: partly visible blocks, then fully visible
    blocks. The other two pairs list the query blocks of each key block in the same way; only a
    backward pass needs them.

    The unused columns make the memory quadratic in the number of blocks: 4 MiB for each tensor at
    131072 tokens and blocks of 128, times the number of heads if each head draws its own blocks.
    """

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor
    full_kv_indices: Tensor
    q_num_blocks: Tensor | None
    q_indices: Tensor | None
    full_q_num_blocks: Tensor | None
    full_q_indices: Tensor | None


@cached
def block_lists(
    pattern: Pattern, size: int, padded: bool, gradient: bool, device: torch.device
) -> Lists:
    """The lists on `device`. With padding no block is fully visible, because a kernel does not
    evaluate the mask in fully visible blocks."""
    pairs = block_pairs(pattern, size)
    whole = torch.zeros_like(pairs.whole) if padded else pairs.whole
    by_query = pairs.head * pairs.rows + pairs.row, pairs.column, pairs.rows, pairs.columns
    by_key = pairs.head * pairs.columns + pairs.column, pairs.row, pairs.columns, pairs.rows
    tensors: list[Tensor | None] = []
    for lists, wanted in ((by_query, True), (by_key, gradient)):
        for kind in (~whole, whole):
            if wanted:
                tensors += _list(*lists, kind, pairs.heads, device)
            else:
                tensors += [None, None]
    return Lists(*tensors)  # type: ignore[arg-type]


def _list(
    row: Tensor,
    column: Tensor,
    rows: int,
    columns: int,
    kind: Tensor,
    heads: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Numbers and indices of the columns of each row, in order; `row` counts rows of all heads."""
    row, column = row[kind], column[kind]
    order = torch.argsort(row * columns + column)
    row, column = row[order].to(device), column[order].to(device)
    count = torch.bincount(row, minlength=heads * rows)
    rank = torch.arange(len(row), device=device) - (count.cumsum(0) - count)[row]
    index = torch.zeros(heads * rows, columns, dtype=torch.int32, device=device)
    index[row, rank] = column.int()
    return count.int().view(1, heads, rows), index.view(1, heads, rows, columns)


class BlockPairs(NamedTuple):
    """All pairs of a query block and a key block that it sees, one element for each pair."""

    head: Tensor
    row: Tensor
    column: Tensor
    whole: Tensor  # bool: every query of the block sees every key of the block
    heads: int
    rows: int
    columns: int


def block_pairs(pattern: Pattern, size: int) -> BlockPairs:
    """Pairs of blocks of `size`, computed on the CPU from the numbers of the pattern. The work
    grows with the number of pairs, not with the number of tokens.

    A pair is listed if any of its queries may see any of its keys, and it is `whole` only if all
    queries see all keys. A last block with fewer tokens is never `whole`.
    """
    with torch.device("cpu"):
        rows, columns = -(-pattern.query_len // size), -(-pattern.key_len // size)
        any_start, any_stop, all_start, all_stop = _intervals(pattern, size, rows)
        heads, _, width = any_start.shape
        first = (any_start // size).flatten()
        count = torch.where(any_stop > any_start, (any_stop - 1) // size + 1, 0).flatten()
        count = (count - first).clamp(min=0)
        interval = torch.repeat_interleave(count)
        inside = torch.arange(len(interval)) - (count.cumsum(0) - count)[interval]
        line, column = interval // width, first[interval] + inside
        # Intervals of one row may share a block.
        pair = torch.unique(line * columns + column)
        line, column = pair // columns, pair % columns
        head, row = line // rows, line % rows
        start = (column * size)[:, None]
        contained = (all_start[head, row] <= start) & (start + size <= all_stop[head, row])
        whole = contained.any(-1) & ((row + 1) * size <= pattern.query_len)
        return BlockPairs(head, row, column, whole, heads, rows, columns)


def _intervals(pattern: Pattern, size: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intervals of keys for each block of queries, (heads or 1, rows, intervals): start and stop of
    the keys that any of the queries sees, then of the keys that all queries see."""
    blocks = torch.arange(rows)
    first = blocks * size + pattern.offset
    last = ((blocks + 1) * size).clamp(max=pattern.query_len) - 1 + pattern.offset
    step, end = pattern.block_size, pattern.key_len

    def left(position: Tensor) -> Tensor:
        return (position // step - pattern.window) * step

    def right(position: Tensor) -> Tensor:
        return (position // step + pattern.window + 1) * step

    def when(condition: Tensor, limit: int) -> Tensor:
        return torch.where(condition, limit, 0)

    nothing, everything = torch.zeros_like(blocks), torch.full_like(blocks, end)
    # Numbers of first and last rows that see every key.
    front, back = (pattern.leading, pattern.trailing) if pattern.global_rows else (0, 0)
    reached = (first.clamp(min=0) < front) & (last >= 0)
    some_global = reached | (last >= end - back)
    all_global = (first >= 0) & (last < front) | (first >= end - back)
    lead, trail = torch.full_like(blocks, pattern.leading), everything - pattern.trailing
    some = [
        (left(first), right(last)),
        (nothing, lead),
        (trail, everything),
        (nothing, when(some_global, end)),
    ]
    every = [
        (left(last), right(first)),
        (nothing, lead),
        (trail, everything),
        (nothing, when(all_global, end)),
    ]
    heads = 1
    if pattern.random_blocks is not None:
        heads = len(pattern.random_blocks)
        # The blocks of the pattern that contain the rows of each block.
        covered = torch.arange(-(-size // step) + 1)
        own = (first.clamp(min=0) // step)[:, None] + covered
        inside = (own <= (last // step)[:, None]) & (last >= 0)[:, None]
        table = pattern.random_blocks.cpu()
        drawn = table[:, own.clamp(max=table.shape[1] - 1)]
        drawn = drawn.masked_fill(~inside[..., None], -1).flatten(2)
        for draw in drawn.unbind(-1):
            start = draw.clamp(min=0) * step
            stop = torch.where(draw < 0, start, start + step)
            some.append((start, stop))
            alone = (first >= 0) & (first // step == last // step)
            every.append((start, torch.where(alone, stop, start)))

    def stack(intervals: list[tuple[Tensor, Tensor]], limit: Tensor) -> tuple[Tensor, Tensor]:
        starts, stops = (
            torch.stack([x.expand(heads, rows) for x in side], -1)
            for side in zip(*intervals, strict=True)
        )
        return starts.clamp(min=0), torch.minimum(stops, limit[:, None]).clamp(max=end)

    until = (last + 1, first + 1) if pattern.causal else (everything, everything)
    return *stack(some, until[0]), *stack(every, until[1])
