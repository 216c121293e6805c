"""Kernels of `block_selection`: means of blocks of keys, and the blocks with the highest scores."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from variants.engines.gpu.selected.gathered_softmax_kernels import load_rows


@triton.jit
def block_means_kernel(
    key, hidden, means, counts,
    kv_heads, key_len, head_dim, blocks, size, key_batch, key_head, key_row,
    PADDED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the means (heads, blocks, head_dim) in float64 over keys that are not padding, and the
    number of these keys (heads, blocks). Padded keys are 0."""
    block = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    sequence = head // kv_heads
    channel = tl.arange(0, CHANNELS)
    start = key + sequence * key_batch + head % kv_heads * key_head
    end = tl.minimum(block * size + size, key_len)
    summed = tl.zeros((CHANNELS,), tl.float64)
    shown = tl.zeros((ROWS,), tl.int32)
    for begin in range(block * size, end, ROWS):
        row = begin + tl.arange(0, ROWS)
        inside = row < end
        rows = load_rows(start, row, key_row, channel, head_dim, inside).to(tl.float32)
        summed += tl.sum(rows.to(tl.float64), 0)
        if PADDED:
            padding = tl.load(hidden + sequence * key_len + row, mask=inside, other=1)
            shown += (padding == 0).to(tl.int32)
        else:
            shown += inside.to(tl.int32)
    count = tl.sum(shown, 0)
    mean = summed / tl.maximum(count, 1).to(tl.float64)
    target = head * blocks + block
    tl.store(means + target * head_dim + channel, mean, mask=channel < head_dim)
    tl.store(counts + target, count)


@triton.jit
def enter(values, numbers, new, number, column):
    """Put a candidate in place of the lowest value of each row, if its value is higher. Of equal
    lowest values the one with the highest number is replaced."""
    lowest = tl.min(values, 1)
    worst = tl.max(tl.where(values == lowest[:, None], numbers, -1), 1)
    # Numbers differ, except those of empty places.
    same = (values == lowest[:, None]) & (numbers == worst[:, None])
    first = tl.min(tl.where(same, column[None, :], 1 << 30), 1)
    taken = (column[None, :] == first[:, None]) & (new > lowest)[:, None]
    values = tl.where(taken, new[:, None], values)
    numbers = tl.where(taken, number[:, None], numbers)
    return values, numbers


@triton.jit
def choose_blocks_kernel(
    query, positions, means, counts, chosen,
    sign, heads, group, query_len, head_dim, blocks, size, count,
    query_batch, query_head, query_row,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, BLOCKS: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the numbers of the chosen blocks, (heads, count, query_len); -1 for no block. The
    query's own block is the first.

    Scores are computed in float32, and one block more than necessary is kept. If the last two
    scores of a row are so close that rounding may have changed their order, all scores of the tile
    are computed again in float64 and rounded to float32, as the definition says.
    """
    head = tl.program_id(1).to(tl.int64)
    sequence = head // heads
    kv_head = sequence * (heads // group) + (head % heads) // group
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < query_len
    channel = tl.arange(0, CHANNELS)
    start = query + sequence * query_batch + head % heads * query_head
    asked = load_rows(start, row, query_row, channel, head_dim, inside).to(tl.float32) * sign
    position = tl.load(positions + row, mask=inside, other=-1)
    # Rounded to the lower number also for positions before the first key.
    own = tl.where(position < 0, -1, position // size).to(tl.int32)
    limit = blocks
    if CAUSAL:
        limit = tl.minimum(blocks, tl.max(own, 0) + 1)
    means_start = means + kv_head * blocks * head_dim
    counts_start = counts + kv_head * blocks
    column = tl.arange(0, PLACES)
    infinite = float("inf")
    # One place more than `count`; places that are never used hold infinity.
    free = tl.where(column <= count, -infinite, infinite)
    values = tl.zeros((ROWS, PLACES), tl.float32) + free[None, :]
    numbers = tl.full((ROWS, PLACES), -1, tl.int32)
    largest = 0.0
    for begin in range(0, limit, BLOCKS):
        number = begin + tl.arange(0, BLOCKS)
        known = number < limit
        mean = load_rows(means_start, number, head_dim, channel, head_dim, known).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.sum(mean * mean, 1), 0))
        scores = tl.dot(asked, tl.trans(mean), input_precision=PRECISION)
        shown = tl.load(counts_start + number, mask=known, other=0) > 0
        seen = shown[None, :] & inside[:, None]
        if CAUSAL:
            seen = seen & (number[None, :] < own[:, None])
        scores = tl.where(seen, scores, -infinite)
        scores = tl.where(number[None, :] == own[:, None], infinite, scores)
        more = 1
        while more > 0:
            best = tl.max(scores, 1)
            there = tl.where(scores == best[:, None], number[None, :], 1 << 30)
            which = tl.min(there, 1)
            more = tl.max((best > tl.min(values, 1)).to(tl.int32), 0)
            values, numbers = enter(values, numbers, best, which, column)
            scores = tl.where(number[None, :] == which[:, None], -infinite, scores)
    lowest = tl.min(values, 1)
    worst = tl.max(tl.where(values == lowest[:, None], numbers, -1), 1)
    last = (values == lowest[:, None]) & (numbers == worst[:, None])
    following = tl.min(tl.where(last, infinite, values), 1)
    # Bound of the rounding error of a score, by the inequality of Cauchy and Schwarz.
    length = tl.sqrt(tl.sum(asked * asked, 1) * largest)
    error = length * ((head_dim + 64) * 5.9604645e-08)
    close = (following - lowest <= 2 * error) & (lowest > -infinite)
    if tl.max(close.to(tl.int32), 0) > 0:
        values = tl.zeros((ROWS, PLACES), tl.float32) + free[None, :]
        numbers = tl.full((ROWS, PLACES), -1, tl.int32)
        wide = asked.to(tl.float64)
        for number in range(limit):
            mean = tl.load(
                means_start + number * head_dim + channel, mask=channel < head_dim, other=0.0
            )
            score = tl.sum(wide * mean[None, :], 1).to(tl.float32)
            seen = inside & (tl.load(counts_start + number) > 0)
            if CAUSAL:
                seen = seen & (number < own)
            score = tl.where(seen, score, -infinite)
            score = tl.where(own == number, infinite, score)
            one = tl.zeros((ROWS,), tl.int32) + number
            values, numbers = enter(values, numbers, score, one, column)
        lowest = tl.min(values, 1)
        worst = tl.max(tl.where(values == lowest[:, None], numbers, -1), 1)
        last = (values == lowest[:, None]) & (numbers == worst[:, None])
    # The additional place is dropped: it takes the place `count`, and the own block the place 0.
    dropped = tl.min(tl.where(last, column[None, :], 1 << 30), 1)
    place = tl.where(column[None, :] == dropped[:, None], count, column[None, :])
    place = tl.where(
        (column[None, :] == count) & (dropped != count)[:, None], dropped[:, None], place
    )
    mine = (numbers == own[:, None]) & (own >= 0)[:, None]
    at = tl.max(tl.where(mine, place, 0), 1)
    place = tl.where(mine, 0, tl.where(place == 0, at[:, None], place))
    target = (head * count + place) * query_len + row[:, None]
    tl.store(chosen + target, numbers, mask=inside[:, None] & (place < count))
