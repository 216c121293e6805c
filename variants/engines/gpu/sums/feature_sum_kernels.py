"""Triton kernels of feature sums, forward: the terms of each chunk, their running sums, outputs.

A state holds, for each feature, the weighted sum of values, and the sum of weights. Exponential
features also have a scale: their state is divided by exp(scale), and the scale of a feature is its
highest exponent among the keys of the state. So all factors are at most 1.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from variants.engines.gpu.sums.feature_tile_kernels import (
    HIDDEN,
    SMALLEST,
    elementwise,
    exponents,
    half_square,
    head_start,
    load_rows,
    multiply,
    shown_keys,
    store_rows,
)


@triton.jit
def chunk_states(
    KEY, VALUE, PADDING, HIGH, LOW, DECAY, SUMS, TOTALS, SCALES,
    key_batch, key_head, key_row, value_batch, value_head, value_row,
    state_heads, kv_heads, key_len, channels, features, root,
    KIND: tl.constexpr, PADDED: tl.constexpr, SPLIT: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """The terms that the keys of each chunk add to the state, for a block of features."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    feature = tl.program_id(2) * FEATURES + tl.arange(0, FEATURES)
    channel, inner = tl.arange(0, CHANNELS), tl.arange(0, ROWS)
    row = chunk * ROWS + inner
    batch, own = head // state_heads, head % state_heads
    kv_head = batch * kv_heads + own // (state_heads // kv_heads)
    shown = shown_keys(PADDING, batch, row, key_len, PADDED)
    keys = KEY + head_start(kv_head, kv_heads, key_batch, key_head)
    values = VALUE + head_start(kv_head, kv_heads, value_batch, value_head)
    value = load_rows(values, row, shown, value_row, channel, channels)
    slot = head.to(tl.int64) * (tl.num_programs(0) + 1) + chunk
    if KIND == "exp":
        key = load_rows(keys, row, shown, key_row, channel, channels)
        start = own * channels * features
        made = exponents(
            key, HIGH, LOW, start, feature, features, channel, channels, SPLIT, PRECISION
        )
        made = tl.where(shown[:, None], made - half_square(key, root)[:, None], HIDDEN)
        scale = tl.max(made, 0)
        tl.store(SCALES + slot * features + feature, scale, mask=feature < features)
        made = tl.where(shown[:, None], tl.exp(made - scale[None, :]), 0.0)
    else:
        key = load_rows(keys, row, shown, key_row, feature, features).to(tl.float32)
        made = tl.where(shown[:, None], elementwise(key, KIND), 0.0)
        if KIND == "decay":
            log_decay = tl.load(DECAY + own)
            made = made * tl.exp(log_decay * (ROWS - 1 - inner).to(tl.float32))[:, None]
    sums = multiply(tl.trans(made), value, OPERAND, PRECISION)
    start = SUMS + slot * features * channels
    store_rows(start, feature, feature < features, channels, channel, channels, sums)
    if KIND != "decay":
        tl.store(TOTALS + slot * features + feature, tl.sum(made, 0), mask=feature < features)


@triton.jit
def scan_states(
    SUMS, TOTALS, SCALES, DECAY, heads, chunks, channels, features,
    KIND: tl.constexpr, REVERSE: tl.constexpr, CAUSAL: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """Replace the terms of each chunk by the state before it, or in REVERSE after it. Slot `chunks`
    gets the state of all chunks. A program owns a block of features.

    In REVERSE, SCALES are those of the states before each chunk. If not CAUSAL, all terms have one
    scale already.
    """
    head = tl.program_id(0)
    feature = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    channel = tl.arange(0, CHANNELS)
    keep = feature < features
    inside = keep[:, None] & (channel[None, :] < channels)
    first = head.to(tl.int64) * (chunks + 1)
    carried = tl.zeros((FEATURES, CHANNELS), tl.float32)
    total = tl.zeros((FEATURES,), tl.float32)
    scale = tl.full((FEATURES,), HIDDEN, tl.float32)
    factor = 1.0
    if KIND == "decay":
        factor = tl.exp(tl.load(DECAY + head % heads) * ROWS)
    at = feature[:, None] * channels + channel[None, :]
    chunk = chunks - 1 if REVERSE else 0
    term = tl.load(SUMS + (first + chunk) * features * channels + at, mask=inside, other=0.0)
    for step in range(chunks):
        chunk = chunks - 1 - step if REVERSE else step
        slot = (first + chunk) * features
        # The next terms are loaded before this state is stored, so that the loads overlap.
        following = tl.maximum(chunk - 1, 0) if REVERSE else tl.minimum(chunk + 1, chunks - 1)
        place = SUMS + (first + following) * features * channels + at
        waiting = tl.load(place, mask=inside, other=0.0)
        if KIND != "decay":
            own_total = tl.load(TOTALS + slot + feature, mask=keep, other=0.0)
        if KIND == "exp" and (CAUSAL or not REVERSE):
            own = tl.load(SCALES + slot + feature, mask=keep, other=HIDDEN)
        # All warps have loaded the terms of this chunk before one of them replaces the terms.
        tl.debug_barrier()
        tl.store(SUMS + slot * channels + at, carried, mask=inside)
        if KIND != "decay":
            tl.store(TOTALS + slot + feature, total, mask=keep)
        if KIND == "exp" and not REVERSE:
            tl.store(SCALES + slot + feature, scale, mask=keep)
        if KIND == "decay":
            carried = carried * factor + term
        else:
            if KIND == "exp" and not REVERSE:
                both = tl.maximum(scale, own)
                past, new = tl.exp(scale - both), tl.exp(own - both)
                carried = carried * past[:, None] + term * new[:, None]
                total = total * past + own_total * new
                scale = both
            elif KIND == "exp" and CAUSAL:
                after = tl.load(SCALES + slot + features + feature, mask=keep, other=HIDDEN)
                past = tl.exp(own - after)
                carried = carried * past[:, None] + term
                total = total * past + own_total
            else:
                carried += term
                total += own_total
        term = waiting
    slot = (first + chunks) * features
    tl.store(SUMS + slot * channels + at, carried, mask=inside)
    if KIND != "decay":
        tl.store(TOTALS + slot + feature, total, mask=keep)
    if KIND == "exp" and not REVERSE:
        tl.store(SCALES + slot + feature, scale, mask=keep)


@triton.jit
def chunk_outputs(
    QUERY, KEY, VALUE, PADDING, QUERY_HIGH, QUERY_LOW, KEY_HIGH, KEY_LOW, DECAY,
    SUMS, TOTALS, SCALES, OUT, ROW_TOTAL, ROW_SCALE, KEY_SCALE,
    query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row, heads, kv_heads, state_heads,
    query_len, key_len, channels, features, key_chunks, first, scale, root,
    KIND: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, SPLIT: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, FEATURES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk of queries, from the state before the chunk and the keys of the chunk; if
    not CAUSAL from the state of all keys.

    With exponential features a row has the scale ROW_SCALE, the highest exponent of a weight or
    more. Within the chunk a weight is exp(query exponent) · exp(key exponent), each divided by its
    highest value: KEY_SCALE is the highest exponent of the keys of the chunk up to this key.
    """
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
    queries = QUERY + head_start(head, heads, query_batch, query_head)
    keys = KEY + head_start(kv_head, kv_heads, key_batch, key_head)
    shown = keep
    start = own * channels * features
    acc = tl.zeros((ROWS, CHANNELS), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    scores = tl.zeros((ROWS, ROWS), tl.float32)
    if CAUSAL:
        shown = shown_keys(PADDING, batch, row, key_len, PADDED)
    if KIND == "exp":
        query = load_rows(queries, asked, keep, query_row, channel, channels)
        own_scale = tl.full((ROWS,), HIDDEN, tl.float32)
        state_scale = tl.full((ROWS,), -3e38, tl.float32)
        query_highest = tl.full((ROWS,), HIDDEN, tl.float32)
        if CAUSAL:
            key = load_rows(keys, row, shown, key_row, channel, channels)
            halves = half_square(key, root)
        for block in range(BLOCKS):
            feature = block * FEATURES + tl.arange(0, FEATURES)
            made = exponents(query, QUERY_HIGH, QUERY_LOW, start, feature, features, channel,
                             channels, SPLIT, PRECISION)  # fmt: skip
            tops = tl.load(
                SCALES + slot * features + feature, mask=feature < features, other=HIDDEN
            )
            state_scale = tl.maximum(state_scale, tl.max(made + tops[None, :], 1))
            if CAUSAL:
                query_highest = tl.maximum(query_highest, tl.max(made, 1))
                made = exponents(key, KEY_HIGH, KEY_LOW, start, feature, features, channel,
                                 channels, SPLIT, PRECISION)  # fmt: skip
                made = tl.where(shown[:, None], made - halves[:, None], HIDDEN)
                own_scale = tl.maximum(own_scale, tl.max(made, 1))
        row_scale = state_scale
        if CAUSAL:
            own_scale = tl.max(tl.where(earlier, own_scale[None, :], HIDDEN), 1)
            row_scale = tl.maximum(row_scale, query_highest + own_scale)
            place = KEY_SCALE + head.to(tl.int64) * key_len + row
            tl.store(place, own_scale, mask=row < key_len)
        tl.store(ROW_SCALE + head.to(tl.int64) * query_len + asked, row_scale, mask=keep)
    for block in range(BLOCKS):
        feature = block * FEATURES + tl.arange(0, FEATURES)
        if KIND == "exp":
            made = exponents(query, QUERY_HIGH, QUERY_LOW, start, feature, features, channel,
                             channels, SPLIT, PRECISION)  # fmt: skip
            tops = tl.load(
                SCALES + slot * features + feature, mask=feature < features, other=HIDDEN
            )
            from_state = tl.exp(made + tops[None, :] - row_scale[:, None])
            if CAUSAL:
                # At most 0, except if no key is shown: then the scales exceed all differences.
                made = tl.exp(tl.minimum(made - (row_scale - own_scale)[:, None], 0.0))
                other = exponents(key, KEY_HIGH, KEY_LOW, start, feature, features, channel,
                                  channels, SPLIT, PRECISION)  # fmt: skip
                other = tl.exp(tl.minimum(other - halves[:, None] - own_scale[:, None], 0.0))
        else:
            made = load_rows(queries, asked, keep, query_row, feature, features).to(tl.float32)
            made = elementwise(made * scale, KIND)
            from_state = made
            if KIND == "decay":
                from_state = (
                    made * tl.exp(tl.load(DECAY + own) * (inner + 1).to(tl.float32))[:, None]
                )
            if CAUSAL:
                other = load_rows(keys, row, shown, key_row, feature, features).to(tl.float32)
                other = elementwise(other, KIND)
        if CAUSAL:
            other = tl.where(shown[:, None] & (feature[None, :] < features), other, 0.0)
            scores += multiply(made, tl.trans(other), OPERAND, PRECISION)
        state = load_rows(SUMS + slot * features * channels, feature, feature < features, channels,
                          channel, channels)  # fmt: skip
        acc += multiply(from_state, state, OPERAND, PRECISION)
        if KIND != "decay":
            sums = tl.load(TOTALS + slot * features + feature, mask=feature < features, other=0.0)
            total += tl.sum(from_state * sums[None, :], 1)
    if CAUSAL:
        if KIND == "exp":
            scores = scores * tl.exp(tl.minimum(own_scale[None, :] - own_scale[:, None], 0.0))
        if KIND == "decay":
            distance = tl.maximum(inner[:, None] - inner[None, :], 0).to(tl.float32)
            scores = scores * tl.exp(tl.load(DECAY + own) * distance)
        scores = tl.where(earlier, scores, 0.0)
        values = VALUE + head_start(kv_head, kv_heads, value_batch, value_head)
        value = load_rows(values, row, shown, value_row, channel, channels)
        acc += multiply(scores, value, OPERAND, PRECISION)
        total += tl.sum(scores, 1)
    if KIND != "decay":
        total = tl.where(total > SMALLEST, total, float("inf"))
        acc = acc / total[:, None]
        tl.store(ROW_TOTAL + head.to(tl.int64) * query_len + asked, total, mask=keep)
    out = OUT + head.to(tl.int64) * query_len * channels
    store_rows(out, asked, keep, channels, channel, channels, acc)
