"""Kernels of `gathered_softmax`: softmax attention of sorted query rows over ranges of sorted keys.

An item is a query row in one round. The items of a head are sorted, and item t sees the sorted keys
low[t] <= s < high[t]; both limits increase with t. Dao et al., FlashAttention, 2022,
https://arxiv.org/abs/2205.14135
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_items(order, low, high, base, at, end, items, query_len):
    """Items, their query rows, and the keys that they see; places from `end` on see none."""
    inside = at < end
    item = tl.load(order + base + at, mask=inside, other=0) % items
    first = tl.load(low + base + at, mask=inside, other=0)
    last = tl.load(high + base + at, mask=inside, other=0)
    return inside, item, item % query_len, first, last


@triton.jit
def key_places(place, base, at, stop, key_len, PLACED: tl.constexpr):
    """The position of each sorted key."""
    if PLACED:
        return tl.load(place + base + at, mask=at < stop, other=0) % key_len
    else:
        return tl.where(at < stop, at, 0)


@triton.jit
def visible_keys(
    hidden, at, position, own, first, last, stop,
    HIDES_LATER: tl.constexpr, HIDES_OWN: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Whether each item sees each key, (items, keys)."""
    seen = (at[None, :] >= first[:, None]) & (at[None, :] < last[:, None])
    if HIDES_LATER:
        seen = seen & (position[None, :] <= own[:, None])
    if HIDES_OWN:
        seen = seen & (position[None, :] != own[:, None])
    if PADDED:
        padding = tl.load(hidden + position, mask=at < stop, other=1)
        seen = seen & (padding[None, :] == 0)
    return seen


@triton.jit
def load_rows(start, rows, stride, channel, head_dim, inside):
    """Rows (rows, channels) of a matrix whose channels are contiguous; 0 outside."""
    known = inside[:, None] & (channel < head_dim)[None, :]
    where = start + rows[:, None].to(tl.int64) * stride + channel[None, :]
    return tl.load(where, mask=known, other=0.0)


@triton.jit
def gathered_forward_kernel(
    query, key, value, order, low, high, place, hidden, out, lse,
    scale, first_head, heads, group, query_len, key_len, head_dim, items, keys,
    query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row,
    PLACED: tl.constexpr, HIDES_LATER: tl.constexpr, HIDES_OWN: tl.constexpr,
    PADDED: tl.constexpr, OWN_VALUE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the output (heads, items, head_dim) and the log-sum-exp to the base 2 (heads, items),
    at the place of each item before sorting. With OWN_VALUE, an item that sees no key gets the
    value at its own position."""
    local = tl.program_id(1)
    head = (first_head + local).to(tl.int64)
    sequence = head // heads
    kv_head = (head % heads) // group
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside, item, row, first, last = load_items(
        order, low, high, head * items, at, items, items, query_len
    )
    own = row + (key_len - query_len)
    channel = tl.arange(0, CHANNELS)
    queries = load_rows(
        query + sequence * query_batch + (head % heads) * query_head,
        row, query_row, channel, head_dim, inside,
    )  # fmt: skip
    key_start = key + sequence * key_batch + kv_head * key_head
    value_start = value + sequence * value_batch + kv_head * value_head
    hidden_start = hidden + sequence * key_len

    some = first < last
    start = tl.min(tl.where(some, first, keys), 0)
    stop = tl.max(tl.where(some, last, 0), 0)
    if not PLACED:
        # Then the sums of a row do not depend on the other rows of its tile.
        start = start // KEYS * KEYS
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, CHANNELS), tl.float32)
    for begin in range(start, stop, KEYS):
        key_at = begin + tl.arange(0, KEYS)
        position = key_places(place, head * keys, key_at, stop, key_len, PLACED)
        known = key_at < stop
        k = load_rows(key_start, position, key_row, channel, head_dim, known)
        scores = tl.dot(queries, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E)
        seen = visible_keys(
            hidden_start, key_at, position, own, first, last, stop,
            HIDES_LATER, HIDES_OWN, PADDED,
        )  # fmt: skip
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        change = tl.exp2(highest - base)
        v = load_rows(value_start, position, value_row, channel, head_dim, known)
        summed = summed * change[:, None]
        summed += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        total = total * change + tl.sum(weights, 1)
        highest = higher
    empty = total == 0
    result = summed / tl.where(empty, 1.0, total)[:, None]
    if OWN_VALUE:
        alone = inside & empty & (own >= 0)
        if PADDED:
            alone = alone & (tl.load(hidden_start + own, mask=alone, other=1) == 0)
        mine = load_rows(value_start, own, value_row, channel, head_dim, alone)
        result = tl.where(empty[:, None], mine.to(tl.float32), result)
    target = local.to(tl.int64) * items + item
    store = inside[:, None] & (channel < head_dim)[None, :]
    where = out + target[:, None] * head_dim + channel[None, :]
    tl.store(where, result.to(out.dtype.element_ty), mask=store)
    found = tl.where(empty, float("-inf"), highest + tl.log2(tl.where(empty, 1.0, total)))
    tl.store(lse + target, found, mask=inside)


@triton.jit
def merge_items_kernel(
    partial, partial_lse, value, hidden, out, lse,
    first_head, heads, group, query_len, key_len, head_dim, rounds,
    value_batch, value_head, value_row,
    PADDED: tl.constexpr, OWN_VALUE: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Merges the rounds of each query row, as one softmax over the keys of all rounds."""
    local = tl.program_id(1).to(tl.int64)
    head = first_head + local
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < query_len
    channel = tl.arange(0, CHANNELS)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, CHANNELS), tl.float32)
    for turn in range(rounds):
        start = (local * rounds + turn) * query_len
        share = tl.load(partial_lse + start + row, mask=inside, other=float("-inf"))
        found = load_rows(partial + start * head_dim, row, head_dim, channel, head_dim, inside)
        higher = tl.maximum(highest, share)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        change, weight = tl.exp2(highest - base), tl.exp2(share - base)
        summed = summed * change[:, None] + found * weight[:, None]
        total = total * change + weight
        highest = higher
    empty = total == 0
    result = summed / tl.where(empty, 1.0, total)[:, None]
    if OWN_VALUE:
        sequence = head // heads
        own = row + (key_len - query_len)
        alone = inside & empty & (own >= 0)
        if PADDED:
            alone = alone & (tl.load(hidden + sequence * key_len + own, mask=alone, other=1) == 0)
        start = value + sequence * value_batch + (head % heads) // group * value_head
        mine = load_rows(start, own, value_row, channel, head_dim, alone)
        result = tl.where(empty[:, None], mine.to(tl.float32), result)
    target = head * query_len + row
    store = inside[:, None] & (channel < head_dim)[None, :]
    where = out + target[:, None] * head_dim + channel[None, :]
    tl.store(where, result.to(out.dtype.element_ty), mask=store)
    found = tl.where(empty, float("-inf"), highest + tl.log2(tl.where(empty, 1.0, total)))
    tl.store(lse + target, found, mask=inside)
