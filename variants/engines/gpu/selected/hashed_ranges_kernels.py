"""Kernels of `hashed_ranges`: bucket numbers, and the range of sorted keys that a query sees."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from variants.engines.gpu.selected.gathered_softmax_kernels import load_rows


@triton.jit
def hash_rows_kernel(
    rows, rotations, buckets,
    num_heads, group, length, head_dim, rounds, width,
    row_batch, row_head, row_stride,
    BITS: tl.constexpr, ROTATIONS: tl.constexpr, AXES: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the buckets (heads, rounds, length). `rotations` are (num_heads, rounds, head_dim,
    width): all rotations of a round beside each other. Every rotation gives one digit: the index of
    the direction nearest to the rotated row, among its axes and their opposites."""
    head = tl.program_id(1).to(tl.int64)
    turn = tl.program_id(2)
    own_head = head % num_heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < length
    channel = tl.arange(0, CHANNELS)
    start = rows + head // num_heads * row_batch + own_head // group * row_head
    tile = load_rows(start, row, row_stride, channel, head_dim, inside).to(tl.float32)
    axis = tl.arange(0, AXES)
    start = rotations + (own_head * rounds + turn) * head_dim * width
    code = tl.zeros((ROWS,), tl.int32)
    for number in tl.static_range(ROTATIONS):
        axes: tl.constexpr = 2 ** (BITS // ROTATIONS + (number < BITS % ROTATIONS) - 1)
        known = (channel < head_dim)[:, None] & (axis < axes)[None, :]
        where = start + channel[:, None] * width + axis[None, :]
        matrix = tl.load(where, mask=known, other=0.0)
        turned = tl.dot(tile, matrix, input_precision="ieee")
        used = (axis < axes)[None, :]
        highest = tl.max(tl.where(used, turned, float("-inf")), 1)
        lowest = tl.min(tl.where(used, turned, float("inf")), 1)
        positive = highest >= -lowest
        extreme = tl.where(positive, highest, lowest)
        index = tl.max(tl.where(used & (turned == extreme[:, None]), axis[None, :], 0), 1)
        code = code * (2 * axes) + index + tl.where(positive, 0, axes)
        start += axes
    tl.store(buckets + (head * rounds + turn) * length + row, code, mask=inside)


@triton.jit
def keys_before(codes, index, base, key_len, code, position, inside, STEPS: tl.constexpr):
    """Number of the sorted keys of a round before (code, position), by bisection."""
    left = tl.zeros_like(position)
    right = tl.zeros_like(position) + key_len
    for _ in range(STEPS):
        middle = (left + right) // 2
        open_ = inside & (left < right)
        there = tl.load(codes + base + middle, mask=open_, other=0)
        place = (tl.load(index + base + middle, mask=open_, other=0) % key_len).to(tl.int32)
        less = (there < code) | ((there == code) & (place < position))
        left = tl.where(open_ & less, middle + 1, left)
        right = tl.where(open_ & (less == 0), middle, right)
    return left


@triton.jit
def hashed_ranges_kernel(
    query_codes, query_index, key_codes, key_index, low, high,
    total, query_len, key_len, rounds, codes, chunk,
    CAUSAL: tl.constexpr, STEPS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Writes the first and the end of the sorted keys of a head that each sorted item sees: its own
    chunk of `chunk` ranks and the chunk before it. `codes` is the number of buckets with the one of
    hidden keys, which is the last."""
    at = tl.program_id(0).to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    inside = at < total
    code = tl.load(query_codes + at, mask=inside, other=0)
    row = (tl.load(query_index + at, mask=inside, other=0) % query_len).to(tl.int32)
    section = code // codes
    base = section.to(tl.int64) * key_len
    position = row + (key_len - query_len)
    before = keys_before(key_codes, key_index, base, key_len, code, position, inside, STEPS)
    if CAUSAL:  # each bucket is cut separately
        lower, upper = code, code
    else:
        lower = section * codes
        upper = lower + codes - 2
    none = tl.zeros_like(position)
    start = keys_before(key_codes, key_index, base, key_len, lower, none, inside, STEPS)
    stop = keys_before(key_codes, key_index, base, key_len, upper, none + key_len, inside, STEPS)
    own_chunk = (before - start) // chunk
    first = start + tl.maximum(own_chunk - 1, 0) * chunk
    last = tl.minimum(start + (own_chunk + 1) * chunk, stop)
    if CAUSAL:
        last = tl.minimum(last, before + 1)
    turn = (section % rounds) * key_len
    tl.store(low + at, turn + first, mask=inside)
    tl.store(high + at, turn + tl.maximum(first, last), mask=inside)
