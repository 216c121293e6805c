"""Kernels of `additive_softmax`: softmax of scores that a network with one hidden layer computes.

Units of queries and keys are (heads, units, len), so that the numbers of one unit are contiguous.
tanh(x) is 2σ(2x) - 1; the -1 changes no softmax and is left out.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from variants.engines.gpu.selected.gathered_softmax_kernels import LOG2_E, load_rows


@triton.jit
def gates(query_units, key_units, row, column, query_len, key_len, unit):
    """σ(2·(query unit + key unit)), (rows, columns)."""
    mine = tl.load(query_units + unit * query_len + row, mask=row < query_len, other=0.0)
    other = tl.load(key_units + unit * key_len + column, mask=column < key_len, other=0.0)
    power = (mine[:, None] + other[None, :]) * (-2.0 * LOG2_E)
    return 1.0 / (1.0 + tl.exp2(tl.minimum(power, 126.0)))  # finite also for large units


@triton.jit
def additive_scores(
    query_units, key_units, vector, hidden, row, column, query_len, key_len, units,
    CAUSAL: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Scores to the base 2; -inf where a query does not see a key."""
    scores = tl.zeros((ROWS, KEYS), tl.float32)
    for unit in range(units):
        weight = tl.load(vector + unit) * (2.0 * LOG2_E)
        scores += weight * gates(query_units, key_units, row, column, query_len, key_len, unit)
    seen = (row < query_len)[:, None] & (column < key_len)[None, :]
    if CAUSAL:
        seen = seen & (column[None, :] <= row[:, None] + (key_len - query_len))
    if PADDED:
        padding = tl.load(hidden + column, mask=column < key_len, other=1)
        seen = seen & (padding == 0)[None, :]
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def additive_forward_kernel(
    query_units, key_units, value, vector, hidden, out, lse,
    heads, group, query_len, key_len, head_dim, units,
    value_batch, value_head, value_row,
    CAUSAL: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Writes the output (heads, query_len, head_dim), and the log-sum-exp to the base 2."""
    head = tl.program_id(1).to(tl.int64)
    sequence = head // heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    own = query_units + head * units * query_len
    others = key_units + head * units * key_len
    weights_of_units = vector + head % heads * units
    values = value + sequence * value_batch + (head % heads) // group * value_head
    stop = key_len
    if CAUSAL:
        stop = tl.minimum(key_len, tl.program_id(0) * ROWS + ROWS + (key_len - query_len))
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, CHANNELS), tl.float32)
    for begin in range(0, stop, KEYS):
        column = begin + tl.arange(0, KEYS)
        scores = additive_scores(
            own, others, weights_of_units, hidden + sequence * key_len, row, column,
            query_len, key_len, units, CAUSAL, PADDED, ROWS, KEYS,
        )  # fmt: skip
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        change = tl.exp2(highest - base)
        v = load_rows(values, column, value_row, channel, head_dim, column < key_len)
        summed = summed * change[:, None]
        summed += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        total = total * change + tl.sum(weights, 1)
        highest = higher
    empty = total == 0
    result = summed / tl.where(empty, 1.0, total)[:, None]
    inside = row < query_len
    store = inside[:, None] & (channel < head_dim)[None, :]
    where = (head * query_len + row)[:, None] * head_dim + channel[None, :]
    tl.store(out + where, result.to(out.dtype.element_ty), mask=store)
    # A row that sees no key has no gradient: its weights are then 0.
    found = tl.where(empty, float("inf"), highest + tl.log2(tl.where(empty, 1.0, total)))
    tl.store(lse + head * query_len + row, found, mask=inside)


@triton.jit
def changed_scores(scores, grads, v, row_lse, row_delta, PRECISION: tl.constexpr):
    """The weights, and the gradient of the scores."""
    weights = tl.exp2(scores - row_lse[:, None])
    change = tl.dot(grads, tl.trans(v), input_precision=PRECISION)
    return weights, weights * (change - row_delta[:, None])


@triton.jit
def additive_query_gradient_kernel(
    query_units, key_units, value, vector, hidden, grad_out, lse, delta, grad_units, grad_vector,
    heads, group, query_len, key_len, head_dim, units, tiles,
    value_batch, value_head, value_row, grad_batch, grad_head, grad_row,
    CAUSAL: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of the queries' units (heads, units, query_len), and the share of each
    tile of rows in the gradient of the vector, (heads, tiles, units)."""
    head = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0)
    sequence = head // heads
    row = tile * ROWS + tl.arange(0, ROWS)
    inside = row < query_len
    channel = tl.arange(0, CHANNELS)
    number = tl.arange(0, UNITS)
    own = query_units + head * units * query_len
    others = key_units + head * units * key_len
    weights_of_units = vector + head % heads * units
    values = value + sequence * value_batch + (head % heads) // group * value_head
    start = grad_out + sequence * grad_batch + head % heads * grad_head
    grads = load_rows(start, row, grad_row, channel, head_dim, inside)
    row_lse = tl.load(lse + head * query_len + row, mask=inside, other=float("inf"))
    row_delta = tl.load(delta + head * query_len + row, mask=inside, other=0.0)
    stop = key_len
    if CAUSAL:
        stop = tl.minimum(key_len, tile * ROWS + ROWS + (key_len - query_len))
    summed = tl.zeros((ROWS, UNITS), tl.float32)
    of_vector = tl.zeros((UNITS,), tl.float32)
    for begin in range(0, stop, KEYS):
        column = begin + tl.arange(0, KEYS)
        scores = additive_scores(
            own, others, weights_of_units, hidden + sequence * key_len, row, column,
            query_len, key_len, units, CAUSAL, PADDED, ROWS, KEYS,
        )  # fmt: skip
        v = load_rows(values, column, value_row, channel, head_dim, column < key_len)
        _, change = changed_scores(scores, grads, v, row_lse, row_delta, PRECISION)
        for unit in range(units):
            gate = gates(own, others, row, column, query_len, key_len, unit)
            share = tl.sum(change * gate * (1.0 - gate), 1)
            summed += tl.where(number[None, :] == unit, share[:, None], 0.0)
            whole = tl.sum(tl.sum(change * gate, 1), 0)
            of_vector += tl.where(number == unit, whole, 0.0)
    weight = tl.load(weights_of_units + number, mask=number < units, other=0.0)
    where = (head * units + number)[None, :] * query_len + row[:, None]
    store = inside[:, None] & (number < units)[None, :]
    tl.store(grad_units + where, summed * (4.0 * weight)[None, :], mask=store)
    where = (head * tiles + tile) * units + number
    tl.store(grad_vector + where, 2.0 * of_vector, mask=number < units)


@triton.jit
def additive_key_gradient_kernel(
    query_units, key_units, value, vector, hidden, grad_out, lse, delta, grad_units, grad_value,
    heads, group, query_len, key_len, head_dim, units,
    value_batch, value_head, value_row, grad_batch, grad_head, grad_row,
    CAUSAL: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of the keys' units (heads, units, key_len), and of the values from each
    query head, (heads, key_len, head_dim)."""
    head = tl.program_id(1).to(tl.int64)
    sequence = head // heads
    column = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    known = column < key_len
    channel = tl.arange(0, CHANNELS)
    number = tl.arange(0, UNITS)
    own = query_units + head * units * query_len
    others = key_units + head * units * key_len
    weights_of_units = vector + head % heads * units
    values = value + sequence * value_batch + (head % heads) // group * value_head
    v = load_rows(values, column, value_row, channel, head_dim, known)
    grad_start = grad_out + sequence * grad_batch + head % heads * grad_head
    begin = 0
    if CAUSAL:
        first = tl.program_id(0) * KEYS - (key_len - query_len)
        begin = tl.maximum(first, 0) // ROWS * ROWS
    summed = tl.zeros((KEYS, UNITS), tl.float32)
    value_sum = tl.zeros((KEYS, CHANNELS), tl.float32)
    for point in range(begin, query_len, ROWS):
        row = point + tl.arange(0, ROWS)
        inside = row < query_len
        grads = load_rows(grad_start, row, grad_row, channel, head_dim, inside)
        row_lse = tl.load(lse + head * query_len + row, mask=inside, other=float("inf"))
        row_delta = tl.load(delta + head * query_len + row, mask=inside, other=0.0)
        scores = additive_scores(
            own, others, weights_of_units, hidden + sequence * key_len, row, column,
            query_len, key_len, units, CAUSAL, PADDED, ROWS, KEYS,
        )  # fmt: skip
        weights, change = changed_scores(scores, grads, v, row_lse, row_delta, PRECISION)
        value_sum += tl.dot(tl.trans(weights).to(grads.dtype), grads, input_precision=PRECISION)
        for unit in range(units):
            gate = gates(own, others, row, column, query_len, key_len, unit)
            share = tl.sum(change * gate * (1.0 - gate), 0)
            summed += tl.where(number[None, :] == unit, share[:, None], 0.0)
    weight = tl.load(weights_of_units + number, mask=number < units, other=0.0)
    where = (head * units + number)[None, :] * key_len + column[:, None]
    store = known[:, None] & (number < units)[None, :]
    tl.store(grad_units + where, summed * (4.0 * weight)[None, :], mask=store)
    store = known[:, None] & (channel < head_dim)[None, :]
    where = (head * key_len + column)[:, None] * head_dim + channel[None, :]
    tl.store(grad_value + where, value_sum.to(grad_value.dtype.element_ty), mask=store)
