"""Triton kernels of the gradients of feature sums.

The gradient of a state sums over later rows: features of a query times the gradient of its output,
divided by the sum of the weights of the row. It has the scales of the state, see
`feature_sum_kernels`.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from variants.engines.gpu.sums.feature_tile_kernels import (
    HIDDEN,
    directions,
    elementwise,
    exponents,
    half_square,
    head_start,
    load_rows,
    multiply,
    shown_keys,
    slope,
    store_rows,
)


@triton.jit
def query_gradient(
    QUERY, KEY, VALUE, PADDING, QUERY_HIGH, QUERY_LOW, KEY_HIGH, KEY_LOW, DECAY,
    SUMS, TOTALS, SCALES, OUT, GRAD, ROW_TOTAL, ROW_SCALE, KEY_SCALE, GRAD_QUERY, DELTA,
    query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row, grad_batch, grad_head, grad_row,
    heads, kv_heads, state_heads, query_len, key_len, channels, features, key_chunks, first,
    scale, root,
    KIND: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, SPLIT: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk of queries, and DELTA, the product of each output with its gradient."""
    chunk, head = first + tl.program_id(0), tl.program_id(1)
    channel, inner = tl.arange(0, CHANNELS), tl.arange(0, ROWS)
    batch, own = head // heads, head % heads
    kv_head = batch * kv_heads + own // (heads // kv_heads)
    state_head = batch * state_heads + own // (heads // state_heads)
    row = chunk * ROWS + inner
    asked = row
    slot = state_head.to(tl.int64) * (key_chunks + 1) + key_chunks
    if CAUSAL:
        asked = row - (key_len - query_len)
        slot = state_head.to(tl.int64) * (key_chunks + 1) + chunk
    keep = (asked >= 0) & (asked < query_len)
    earlier = inner[None, :] <= inner[:, None]
    shown = keep
    if CAUSAL:
        shown = shown_keys(PADDING, batch, row, key_len, PADDED)
    queries = QUERY + head_start(head, heads, query_batch, query_head)
    keys = KEY + head_start(kv_head, kv_heads, key_batch, key_head)
    grads = GRAD + head_start(head, heads, grad_batch, grad_head)
    grad = load_rows(grads, asked, keep, grad_row, channel, channels)
    start = own * channels * features
    rows = head.to(tl.int64) * query_len + asked
    inverse = tl.zeros((ROWS,), tl.float32) + 1.0
    delta = tl.zeros((ROWS,), tl.float32)
    if KIND != "decay":
        out = load_rows(OUT + head.to(tl.int64) * query_len * channels, asked, keep, channels,
                        channel, channels)  # fmt: skip
        delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
        tl.store(DELTA + rows, delta, mask=keep)
        inverse = 1.0 / tl.load(ROW_TOTAL + rows, mask=keep, other=1.0)
    if KIND == "exp":
        query = load_rows(queries, asked, keep, query_row, channel, channels)
        row_scale = tl.load(ROW_SCALE + rows, mask=keep, other=0.0)
        if CAUSAL:
            key = load_rows(keys, row, shown, key_row, channel, channels)
            halves = half_square(key, root)
            own_scale = tl.load(
                KEY_SCALE + head.to(tl.int64) * key_len + row, mask=row < key_len, other=0.0
            )
    if CAUSAL:
        values = VALUE + head_start(kv_head, kv_heads, value_batch, value_head)
        value = load_rows(values, row, shown, value_row, channel, channels)
        scores = multiply(grad, tl.trans(value), OPERAND, PRECISION)
        scores = (scores - delta[:, None]) * inverse[:, None]
        if KIND == "exp":
            scores = scores * tl.exp(tl.minimum(own_scale[None, :] - own_scale[:, None], 0.0))
        if KIND == "decay":
            distance = tl.maximum(inner[:, None] - inner[None, :], 0).to(tl.float32)
            scores = scores * tl.exp(tl.load(DECAY + own) * distance)
        scores = tl.where(earlier, scores, 0.0)
    acc = tl.zeros((ROWS, CHANNELS), tl.float32)
    target = GRAD_QUERY + head.to(tl.int64) * query_len * channels
    for block in range(BLOCKS):
        feature = block * FEATURES + tl.arange(0, FEATURES)
        state = load_rows(SUMS + slot * features * channels, feature, feature < features, channels,
                          channel, channels)  # fmt: skip
        from_state = multiply(grad, tl.trans(state), OPERAND, PRECISION)
        if KIND != "decay":
            sums = tl.load(TOTALS + slot * features + feature, mask=feature < features, other=0.0)
            from_state = (from_state - delta[:, None] * sums[None, :]) * inverse[:, None]
        if KIND == "exp":
            made = exponents(query, QUERY_HIGH, QUERY_LOW, start, feature, features, channel,
                             channels, SPLIT, PRECISION)  # fmt: skip
            tops = tl.load(
                SCALES + slot * features + feature, mask=feature < features, other=HIDDEN
            )
            found = from_state * tl.exp(tl.minimum(made + tops[None, :] - row_scale[:, None], 0.0))
            if CAUSAL:
                made = tl.exp(tl.minimum(made - (row_scale - own_scale)[:, None], 0.0))
                other = exponents(key, KEY_HIGH, KEY_LOW, start, feature, features, channel,
                                  channels, SPLIT, PRECISION)  # fmt: skip
                other = tl.exp(tl.minimum(other - halves[:, None] - own_scale[:, None], 0.0))
                other = tl.where(shown[:, None] & (feature[None, :] < features), other, 0.0)
                found += made * multiply(scores, other, OPERAND, PRECISION)
            high = directions(QUERY_HIGH, start, feature, features, channel, channels)
            acc += multiply(found, tl.trans(high), OPERAND, PRECISION)
        else:
            if KIND == "decay":
                from_state = (
                    from_state * tl.exp(tl.load(DECAY + own) * (inner + 1).to(tl.float32))[:, None]
                )
            if CAUSAL:
                other = load_rows(keys, row, shown, key_row, feature, features).to(tl.float32)
                other = tl.where(shown[:, None], elementwise(other, KIND), 0.0)
                from_state += multiply(scores, other, OPERAND, PRECISION)
            made = load_rows(queries, asked, keep, query_row, feature, features).to(tl.float32)
            found = from_state * slope(made * scale, KIND) * scale
            store_rows(target, asked, keep, channels, feature, features, found)
    if KIND == "exp":
        store_rows(target, asked, keep, channels, channel, channels, acc)


@triton.jit
def gradient_terms(
    QUERY, GRAD, QUERY_HIGH, QUERY_LOW, DECAY, SCALES, ROW_TOTAL, ROW_SCALE, DELTA, SUMS, TOTALS,
    query_batch, query_head, query_row, grad_batch, grad_head, grad_row,
    heads, query_len, offset, channels, features, key_chunks, scale,
    KIND: tl.constexpr, CAUSAL: tl.constexpr, SPLIT: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """The terms that the queries of each chunk add to the gradient of the state before the chunk,
    for a block of features."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    feature = tl.program_id(2) * FEATURES + tl.arange(0, FEATURES)
    channel, inner = tl.arange(0, CHANNELS), tl.arange(0, ROWS)
    own = head % heads
    asked = chunk * ROWS + inner - offset
    keep = (asked >= 0) & (asked < query_len)
    queries = QUERY + head_start(head, heads, query_batch, query_head)
    grads = GRAD + head_start(head, heads, grad_batch, grad_head)
    grad = load_rows(grads, asked, keep, grad_row, channel, channels)
    rows = head.to(tl.int64) * query_len + asked
    slot = head.to(tl.int64) * (tl.num_programs(0) + 1) + chunk
    if KIND == "exp":
        query = load_rows(queries, asked, keep, query_row, channel, channels)
        start = own * channels * features
        made = exponents(query, QUERY_HIGH, QUERY_LOW, start, feature, features, channel, channels,
                         SPLIT, PRECISION)  # fmt: skip
        last = head.to(tl.int64) * (key_chunks + 1) + key_chunks
        if CAUSAL:
            last = slot
        tops = tl.load(SCALES + last * features + feature, mask=feature < features, other=HIDDEN)
        row_scale = tl.load(ROW_SCALE + rows, mask=keep, other=0.0)
        made = tl.exp(tl.minimum(made + tops[None, :] - row_scale[:, None], 0.0))
    else:
        made = load_rows(queries, asked, keep, query_row, feature, features).to(tl.float32) * scale
        made = elementwise(made, KIND)
        if KIND == "decay":
            made = made * tl.exp(tl.load(DECAY + own) * (inner + 1).to(tl.float32))[:, None]
    if KIND != "decay":
        made = made / tl.load(ROW_TOTAL + rows, mask=keep, other=1.0)[:, None]
    made = tl.where(keep[:, None], made, 0.0)
    sums = multiply(tl.trans(made), grad, OPERAND, PRECISION)
    target = SUMS + slot * features * channels
    store_rows(target, feature, feature < features, channels, channel, channels, sums)
    if KIND != "decay":
        delta = tl.load(DELTA + rows, mask=keep, other=0.0)
        total = -tl.sum(made * delta[:, None], 0)
        tl.store(TOTALS + slot * features + feature, total, mask=feature < features)


@triton.jit
def key_gradient(
    QUERY, KEY, VALUE, PADDING, QUERY_HIGH, QUERY_LOW, KEY_HIGH, KEY_LOW, DECAY,
    SCALES, GRAD_SUMS, GRAD_TOTALS, GRAD, ROW_TOTAL, ROW_SCALE, KEY_SCALE, DELTA,
    GRAD_KEY, GRAD_VALUE,
    query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row, grad_batch, grad_head, grad_row,
    heads, kv_heads, query_len, key_len, channels, features, key_chunks, query_chunks, scale, root,
    KIND: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, SPLIT: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk of keys and values, summed over the query heads that read them."""
    chunk, kv_head = tl.program_id(0), tl.program_id(1)
    channel, inner = tl.arange(0, CHANNELS), tl.arange(0, ROWS)
    batch, group = kv_head // kv_heads, heads // kv_heads
    row = chunk * ROWS + inner
    asked = row - (key_len - query_len)
    keep = (asked >= 0) & (asked < query_len)
    later = inner[None, :] >= inner[:, None]
    shown = shown_keys(PADDING, batch, row, key_len, PADDED)
    keys = KEY + head_start(kv_head, kv_heads, key_batch, key_head)
    values = VALUE + head_start(kv_head, kv_heads, value_batch, value_head)
    key = load_rows(keys, row, shown, key_row, channel, channels)
    value = load_rows(values, row, shown, value_row, channel, channels)
    grad_key = tl.zeros((ROWS, CHANNELS), tl.float32)
    grad_value = tl.zeros((ROWS, CHANNELS), tl.float32)
    along = tl.zeros((ROWS,), tl.float32)
    if KIND == "exp":
        halves = half_square(key, root)
    for member in range(group):
        own = (kv_head % kv_heads) * group + member
        head = batch * heads + own
        start = own * channels * features
        first_state = head.to(tl.int64) * (key_chunks + 1)
        last = first_state + key_chunks
        slot = head.to(tl.int64) * (query_chunks + 1) + query_chunks
        if CAUSAL:
            last = first_state + chunk + 1
            slot = head.to(tl.int64) * (query_chunks + 1) + chunk
        rows = head.to(tl.int64) * query_len + asked
        queries = QUERY + head_start(head, heads, query_batch, query_head)
        if CAUSAL:
            grads = GRAD + head_start(head, heads, grad_batch, grad_head)
            grad = load_rows(grads, asked, keep, grad_row, channel, channels)
            inverse = tl.where(keep, 1.0, 0.0)
            scores = multiply(value, tl.trans(grad), OPERAND, PRECISION)
            if KIND != "decay":
                inverse = 1.0 / tl.load(ROW_TOTAL + rows, mask=keep, other=float("inf"))
                delta = tl.load(DELTA + rows, mask=keep, other=0.0)
                scores = scores - delta[None, :]
            factor = tl.where(later, inverse[None, :], 0.0)
            if KIND == "exp":
                row_scale = tl.load(ROW_SCALE + rows, mask=keep, other=0.0)
                place = KEY_SCALE + head.to(tl.int64) * key_len + row
                own_scale = tl.load(place, mask=row < key_len, other=0.0)
                query = load_rows(queries, asked, keep, query_row, channel, channels)
                apart = own_scale[:, None] - own_scale[None, :]
                factor = factor * tl.exp(tl.minimum(apart, 0.0))
            if KIND == "decay":
                distance = tl.maximum(inner[None, :] - inner[:, None], 0).to(tl.float32)
                factor = factor * tl.exp(tl.load(DECAY + own) * distance)
            scores = scores * factor
            weights = tl.zeros((ROWS, ROWS), tl.float32)
        for block in range(BLOCKS):
            feature = block * FEATURES + tl.arange(0, FEATURES)
            inside = shown[:, None] & (feature[None, :] < features)
            state = load_rows(GRAD_SUMS + slot * features * channels, feature, feature < features,
                              channels, channel, channels)  # fmt: skip
            found = multiply(value, tl.trans(state), OPERAND, PRECISION)
            if KIND != "decay":
                place = GRAD_TOTALS + slot * features + feature
                found += tl.load(place, mask=feature < features, other=0.0)[None, :]
            if KIND == "exp":
                made = exponents(key, KEY_HIGH, KEY_LOW, start, feature, features, channel,
                                 channels, SPLIT, PRECISION)  # fmt: skip
                made = made - halves[:, None]
                tops = tl.load(
                    SCALES + last * features + feature, mask=feature < features, other=0.0
                )
                to_state = tl.exp(tl.minimum(made - tops[None, :], 0.0))
                to_state = tl.where(inside, to_state, 0.0)
                found = found * to_state
                if CAUSAL:
                    made = tl.exp(tl.minimum(made - own_scale[:, None], 0.0))
                    made = tl.where(inside, made, 0.0)
                    other = exponents(query, QUERY_HIGH, QUERY_LOW, start, feature, features,
                                      channel, channels, SPLIT, PRECISION)  # fmt: skip
                    other = tl.exp(tl.minimum(other - (row_scale - own_scale)[:, None], 0.0))
                    weights += multiply(made, tl.trans(other), OPERAND, PRECISION)
                    found += made * multiply(scores, other, OPERAND, PRECISION)
                high = directions(KEY_HIGH, start, feature, features, channel, channels)
                grad_key += multiply(found, tl.trans(high), OPERAND, PRECISION)
                along += tl.sum(found, 1)
            else:
                # One block holds all features, so the features are the channels.
                made = elementwise(key.to(tl.float32), KIND)
                made = tl.where(inside, made, 0.0)
                to_state = made
                if KIND == "decay":
                    past = tl.exp(tl.load(DECAY + own) * (ROWS - 1 - inner).to(tl.float32))
                    to_state = made * past[:, None]
                    found = found * past[:, None]
                if CAUSAL:
                    other = load_rows(queries, asked, keep, query_row, feature, features)
                    other = elementwise(other.to(tl.float32) * scale, KIND)
                    weights += multiply(made, tl.trans(other), OPERAND, PRECISION)
                    found += multiply(scores, other, OPERAND, PRECISION)
                grad_key += found
            grad_value += multiply(to_state, state, OPERAND, PRECISION)
        if CAUSAL:
            grad_value += multiply(weights * factor, grad, OPERAND, PRECISION)
    if KIND == "exp":
        grad_key = grad_key - key.to(tl.float32) * (along * root * root)[:, None]
    else:
        grad_key = grad_key * slope(key.to(tl.float32), KIND)
    place = kv_head.to(tl.int64) * key_len * channels
    store_rows(GRAD_KEY + place, row, row < key_len, channels, channel, channels,
               tl.where(shown[:, None], grad_key, 0.0))  # fmt: skip
    store_rows(GRAD_VALUE + place, row, row < key_len, channels, channel, channels,
               tl.where(shown[:, None], grad_value, 0.0))  # fmt: skip
