"""Kernels of the backward pass of `gathered_softmax`. They compute the weights again from the
log-sum-exp of each query row. Each result is written by one program, so it is deterministic."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from variants.engines.gpu.selected.gathered_softmax_kernels import (
    LOG2_E,
    key_places,
    load_items,
    load_rows,
    visible_keys,
)


@triton.jit
def row_delta_kernel(
    out, grad_out, delta, heads, query_len, head_dim,
    grad_batch, grad_head, grad_row, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum of out * grad_out of each row, (heads, query_len)."""
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < query_len
    channel = tl.arange(0, CHANNELS)
    start = grad_out + head // heads * grad_batch + head % heads * grad_head
    grads = load_rows(start, row, grad_row, channel, head_dim, inside).to(tl.float32)
    start = out + head * query_len * head_dim
    found = load_rows(start, row, head_dim, channel, head_dim, inside).to(tl.float32)
    tl.store(delta + head * query_len + row, tl.sum(grads * found, 1), mask=inside)


@triton.jit
def gathered_query_gradient_kernel(
    query, key, value, order, low, high, place, hidden, grad_out, lse, delta, result,
    scale, first_head, heads, group, query_len, key_len, head_dim, items, keys,
    query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row, grad_batch, grad_head, grad_row,
    PLACED: tl.constexpr, HIDES_LATER: tl.constexpr, HIDES_OWN: tl.constexpr,
    PADDED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of the query in each item, (heads, items, head_dim)."""
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
    start = query + sequence * query_batch + (head % heads) * query_head
    queries = load_rows(start, row, query_row, channel, head_dim, inside)
    start = grad_out + sequence * grad_batch + (head % heads) * grad_head
    grads = load_rows(start, row, grad_row, channel, head_dim, inside)
    row_lse = tl.load(lse + head * query_len + row, mask=inside, other=float("-inf"))
    row_lse = tl.where(row_lse == float("-inf"), float("inf"), row_lse)
    row_delta = tl.load(delta + head * query_len + row, mask=inside, other=0.0)
    key_start = key + sequence * key_batch + kv_head * key_head
    value_start = value + sequence * value_batch + kv_head * value_head

    some = first < last
    start = tl.min(tl.where(some, first, keys), 0)
    stop = tl.max(tl.where(some, last, 0), 0)
    if not PLACED:
        start = start // KEYS * KEYS
    summed = tl.zeros((ROWS, CHANNELS), tl.float32)
    for begin in range(start, stop, KEYS):
        key_at = begin + tl.arange(0, KEYS)
        position = key_places(place, head * keys, key_at, stop, key_len, PLACED)
        known = key_at < stop
        k = load_rows(key_start, position, key_row, channel, head_dim, known)
        v = load_rows(value_start, position, value_row, channel, head_dim, known)
        scores = tl.dot(queries, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E)
        seen = visible_keys(
            hidden + sequence * key_len, key_at, position, own, first, last, stop,
            HIDES_LATER, HIDES_OWN, PADDED,
        )  # fmt: skip
        weights = tl.exp2(tl.where(seen, scores - row_lse[:, None], float("-inf")))
        change = tl.dot(grads, tl.trans(v), input_precision=PRECISION)
        change = weights * (change - row_delta[:, None])
        summed += tl.dot(change.to(k.dtype), k, input_precision=PRECISION)
    target = local.to(tl.int64) * items + item
    store = inside[:, None] & (channel < head_dim)[None, :]
    where = result + target[:, None] * head_dim + channel[None, :]
    tl.store(where, (summed * scale).to(result.dtype.element_ty), mask=store)


@triton.jit
def gathered_key_gradient_kernel(
    query, key, value, order, low, high, place, hidden, grad_out, lse, delta,
    begins, ends, grad_key, grad_value,
    scale, first_head, heads, group, query_len, key_len, head_dim, items, keys, tiles,
    query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row, grad_batch, grad_head, grad_row,
    PLACED: tl.constexpr, HIDES_LATER: tl.constexpr, HIDES_OWN: tl.constexpr,
    PADDED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of keys and values from each query head and each copy of the keys,
    (heads, copies, key_len, head_dim). `begins` and `ends` (heads, tiles) limit the items that see
    a key of the tile."""
    local = tl.program_id(1)
    tile = tl.program_id(0)
    head = (first_head + local).to(tl.int64)
    sequence = head // heads
    kv_head = (head % heads) // group
    key_at = tile * KEYS + tl.arange(0, KEYS)
    known = key_at < keys
    position = key_places(place, head * keys, key_at, keys, key_len, PLACED)
    channel = tl.arange(0, CHANNELS)
    start = key + sequence * key_batch + kv_head * key_head
    k = load_rows(start, position, key_row, channel, head_dim, known)
    start = value + sequence * value_batch + kv_head * value_head
    v = load_rows(start, position, value_row, channel, head_dim, known)
    query_start = query + sequence * query_batch + (head % heads) * query_head
    grad_start = grad_out + sequence * grad_batch + (head % heads) * grad_head

    begin = tl.load(begins + head * tiles + tile)
    end = tl.load(ends + head * tiles + tile)
    key_sum = tl.zeros((KEYS, CHANNELS), tl.float32)
    value_sum = tl.zeros((KEYS, CHANNELS), tl.float32)
    for point in range(begin, end, ROWS):
        at = point + tl.arange(0, ROWS)
        inside, _, row, first, last = load_items(
            order, low, high, head * items, at, end, items, query_len
        )
        own = row + (key_len - query_len)
        queries = load_rows(query_start, row, query_row, channel, head_dim, inside)
        grads = load_rows(grad_start, row, grad_row, channel, head_dim, inside)
        row_lse = tl.load(lse + head * query_len + row, mask=inside, other=float("-inf"))
        row_lse = tl.where(row_lse == float("-inf"), float("inf"), row_lse)
        row_delta = tl.load(delta + head * query_len + row, mask=inside, other=0.0)
        scores = tl.dot(queries, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E)
        seen = visible_keys(
            hidden + sequence * key_len, key_at, position, own, first, last, keys,
            HIDES_LATER, HIDES_OWN, PADDED,
        )  # fmt: skip
        weights = tl.exp2(tl.where(seen, scores - row_lse[:, None], float("-inf")))
        change = tl.dot(grads, tl.trans(v), input_precision=PRECISION)
        change = weights * (change - row_delta[:, None])
        value_sum += tl.dot(tl.trans(weights).to(grads.dtype), grads, input_precision=PRECISION)
        key_sum += tl.dot(tl.trans(change).to(queries.dtype), queries, input_precision=PRECISION)
    place_in_copy = key_at // key_len * key_len + position if PLACED else position
    target = local.to(tl.int64) * keys + place_in_copy
    store = known[:, None] & (channel < head_dim)[None, :]
    where = target[:, None] * head_dim + channel[None, :]
    element = grad_key.dtype.element_ty
    tl.store(grad_key + where, (key_sum * scale).to(element), mask=store)
    tl.store(grad_value + where, value_sum.to(element), mask=store)


@triton.jit
def sum_copies_kernel(
    parts, result, grad_out, lse, hidden,
    first, copies, length, head_dim, heads, group, query_len,
    grad_batch, grad_head, grad_row,
    PADDED: tl.constexpr, OWN_VALUE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums parts (own, copies, length, head_dim) over the copies, into the heads from `first` on of
    (heads, length, head_dim). With OWN_VALUE, adds the gradients of query rows that see no key and
    got the value at their own position; `first` then counts key heads."""
    local = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < length
    channel = tl.arange(0, CHANNELS)
    summed = tl.zeros((ROWS, CHANNELS), tl.float32)
    for copy in range(copies):
        start = parts + (local * copies + copy) * length * head_dim
        summed += load_rows(start, row, head_dim, channel, head_dim, inside)
    head = first + local
    if OWN_VALUE:
        kv_heads = heads // group
        sequence = head // kv_heads
        asker = row - (length - query_len)
        asks = inside & (asker >= 0)
        if PADDED:
            asks = asks & (tl.load(hidden + sequence * length + row, mask=inside, other=1) == 0)
        for member in range(group):
            one = head % kv_heads * group + member
            start = (sequence * heads + one) * query_len
            found = tl.load(lse + start + asker, mask=asks, other=0.0)
            start = grad_out + sequence * grad_batch + one * grad_head
            alone = asks & (found == float("-inf"))
            summed += load_rows(start, asker, grad_row, channel, head_dim, alone).to(tl.float32)
    store = inside[:, None] & (channel < head_dim)[None, :]
    where = (head * length + row)[:, None] * head_dim + channel[None, :]
    tl.store(result + where, summed.to(result.dtype.element_ty), mask=store)
