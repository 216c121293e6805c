"""Triton kernels of `block_softmax`: softmax attention over listed blocks of keys.

A program computes one tile of query rows of one head, or one tile of keys in the gradient of keys
and values. It reads the blocks of its list: first the partly visible blocks, where the ranges of
keys are evaluated for each score, then the fully visible blocks. Scores stay in registers, as in
FlashAttention (Dao et al., 2022, https://arxiv.org/abs/2205.14135), and the backward pass computes
them again. Exponentials have base 2.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

HIDDEN = tl.constexpr(-1e30)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(
    Tensor, base, rows, row_stride, limit, CHANNELS: tl.constexpr, WIDTH: tl.constexpr
):  # a tile (rows, WIDTH) of one head; 0 outside
    channels = tl.arange(0, WIDTH)
    inside = rows[:, None] < limit
    if CHANNELS < WIDTH:
        inside = inside & (channels[None, :] < CHANNELS)
    return tl.load(
        Tensor + base + rows[:, None].to(tl.int64) * row_stride + channels[None, :],
        mask=inside,
        other=0.0,
    )


@triton.jit
def _store(Tensor, base, rows, limit, tile, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    channels = tl.arange(0, WIDTH)
    inside = rows[:, None] < limit
    if CHANNELS < WIDTH:
        inside = inside & (channels[None, :] < CHANNELS)
    place = base + rows[:, None].to(tl.int64) * CHANNELS + channels[None, :]
    tl.store(Tensor + place, tile, mask=inside)


@triton.jit
def _scores(
    query,
    key,
    rows,
    columns,
    scale,
    KeyBias,
    DistanceBias,
    Bounds,
    query_len,
    key_len,
    offset,
    tokens,
    lead,
    group_rows,
    RANGES: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    HAS_KEY_BIAS: tl.constexpr,
    HAS_DISTANCES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Scores (rows, columns) times log2(e), HIDDEN where a row does not see a key."""
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * (scale * LOG2_E)
    if HAS_KEY_BIAS:
        bias = tl.load(KeyBias + columns, mask=columns < key_len, other=0.0)
        scores += bias.to(tl.float32)[None, :] * LOG2_E
    if HAS_DISTANCES:
        entry = columns[None, :] - rows[:, None] + (query_len - 1)
        valid = (rows[:, None] < query_len) & (columns[None, :] < key_len)
        scores += tl.load(DistanceBias + entry, mask=valid, other=0.0).to(tl.float32) * LOG2_E
    if MASKED:
        seen = columns[None, :] < key_len
        if RANGES > 0:
            place = Bounds + (rows + lead) // group_rows * (2 * RANGES)
            inside = (rows[:, None] < 0) & seen
            for number in tl.static_range(RANGES):
                first = tl.load(place + 2 * number, mask=rows < query_len, other=0)
                stop = tl.load(place + 2 * number + 1, mask=rows < query_len, other=0)
                inside = inside | (
                    (columns[None, :] >= first[:, None]) & (columns[None, :] < stop[:, None])
                )
            seen = seen & inside
        if CAUSAL:
            earlier = columns[None, :] <= rows[:, None] + offset
            seen = seen & (earlier | (columns[None, :] >= tokens))
        scores = tl.where(seen, scores, HIDDEN)
    return scores


@triton.jit
def _forward_step(
    query, highest, total, sums, block, Key, key_base, key_stride, Value, value_base, value_stride,
    rows, scale, KeyBias, DistanceBias, Bounds, query_len, key_len, offset, tokens, lead,
    group_rows,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr, KEYS: tl.constexpr, RANGES: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, HAS_KEY_BIAS: tl.constexpr, HAS_DISTANCES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    columns = block * KEYS + tl.arange(0, KEYS)
    key = _load(Key, key_base, columns, key_stride, key_len, CHANNELS, WIDTH)
    scores = _scores(
        query, key, rows, columns, scale, KeyBias, DistanceBias, Bounds, query_len, key_len,
        offset, tokens, lead, group_rows,
        RANGES, CAUSAL, MASKED, HAS_KEY_BIAS, HAS_DISTANCES, PRECISION,
    )  # fmt: skip
    new = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2(scores - new[:, None])
    decay = tl.exp2(highest - new)
    total = total * decay + tl.sum(weights, 1)
    value = _load(Value, value_base, columns, value_stride, key_len, VALUE_CHANNELS, VALUE_WIDTH)
    sums = sums * decay[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
    return new, total, sums


@triton.jit
def forward(
    Query, Key, Value, KeyBias, DistanceBias, Bounds, Order, ListBounds, Blocks, Out, Lse,
    scale, query_len, key_len, offset, tokens, lead, group_rows, heads, group, bounds_stride,
    lists_stride, distance_stride,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head,
    value_row,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, RANGES: tl.constexpr,
    CAUSAL: tl.constexpr, HAS_KEY_BIAS: tl.constexpr, HAS_DISTANCES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Output and base-2 log-sum-exp of a tile of rows; +inf for a row that sees no key."""
    tile = tl.load(Order + tl.program_id(0))
    sequence = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    rows = tile * ROWS + tl.arange(0, ROWS)
    query_base = sequence * query_batch + head * query_head
    key_base = sequence * key_batch + head // group * key_head
    value_base = sequence * value_batch + head // group * value_head
    KeyBias += sequence * key_len
    DistanceBias += head * distance_stride
    Bounds += head * bounds_stride
    ListBounds += head * lists_stride + tile * 3
    query = _load(Query, query_base, rows, query_row, query_len, CHANNELS, WIDTH)
    highest = tl.full((ROWS,), HIDDEN, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    start = tl.load(ListBounds)
    middle = tl.load(ListBounds + 1)
    stop = tl.load(ListBounds + 2)
    for place in range(start, middle):
        highest, total, sums = _forward_step(
            query, highest, total, sums, tl.load(Blocks + place), Key, key_base, key_row, Value,
            value_base, value_row, rows, scale, KeyBias, DistanceBias, Bounds, query_len, key_len,
            offset, tokens, lead, group_rows,
            CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, KEYS, RANGES, CAUSAL, True,
            HAS_KEY_BIAS, HAS_DISTANCES, PRECISION,
        )  # fmt: skip
    for place in range(middle, stop):
        highest, total, sums = _forward_step(
            query, highest, total, sums, tl.load(Blocks + place), Key, key_base, key_row, Value,
            value_base, value_row, rows, scale, KeyBias, DistanceBias, Bounds, query_len, key_len,
            offset, tokens, lead, group_rows,
            CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, KEYS, RANGES, CAUSAL, False,
            HAS_KEY_BIAS, HAS_DISTANCES, PRECISION,
        )  # fmt: skip
    empty = highest <= HIDDEN / 2
    out = sums / tl.where(empty, 1.0, total)[:, None]
    out = tl.where(empty[:, None], 0.0, out)
    lse = tl.where(empty, float("inf"), highest + tl.log2(tl.where(empty, 1.0, total)))
    own = tl.program_id(1).to(tl.int64) * query_len
    out = out.to(Out.dtype.element_ty)
    _store(Out, own * VALUE_CHANNELS, rows, query_len, out, VALUE_CHANNELS, VALUE_WIDTH)
    tl.store(Lse + own + rows, lse, mask=rows < query_len)


@triton.jit
def _query_step(
    query, grad_out, lse, delta, grads, block, Key, key_base, key_stride, Value, value_base,
    value_stride, rows, scale, KeyBias, DistanceBias, GradDistances, Bounds, query_len, key_len,
    offset, tokens, lead, group_rows,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr, KEYS: tl.constexpr, RANGES: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, HAS_KEY_BIAS: tl.constexpr, HAS_DISTANCES: tl.constexpr,
    WANTS_DISTANCES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    columns = block * KEYS + tl.arange(0, KEYS)
    key = _load(Key, key_base, columns, key_stride, key_len, CHANNELS, WIDTH)
    scores = _scores(
        query, key, rows, columns, scale, KeyBias, DistanceBias, Bounds, query_len, key_len,
        offset, tokens, lead, group_rows,
        RANGES, CAUSAL, MASKED, HAS_KEY_BIAS, HAS_DISTANCES, PRECISION,
    )  # fmt: skip
    weights = tl.exp2(scores - lse[:, None])
    value = _load(Value, value_base, columns, value_stride, key_len, VALUE_CHANNELS, VALUE_WIDTH)
    by_weight = tl.dot(grad_out, tl.trans(value), input_precision=PRECISION)
    changes = weights * (by_weight - delta[:, None])
    if WANTS_DISTANCES:
        entry = columns[None, :] - rows[:, None] + (query_len - 1)
        valid = (rows[:, None] < query_len) & (columns[None, :] < key_len)
        tl.atomic_add(GradDistances + entry, changes, mask=valid & (weights > 0), sem="relaxed")
    return grads + tl.dot(changes.to(key.dtype), key, input_precision=PRECISION)


@triton.jit
def query_gradient(
    Query, Key, Value, KeyBias, DistanceBias, Bounds, Order, ListBounds, Blocks, Out, Lse,
    GradOut, GradQuery, Delta, GradDistances,
    scale, query_len, key_len, offset, tokens, lead, group_rows, heads, group, bounds_stride,
    lists_stride, distance_stride,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head,
    value_row,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, RANGES: tl.constexpr,
    CAUSAL: tl.constexpr, HAS_KEY_BIAS: tl.constexpr, HAS_DISTANCES: tl.constexpr,
    WANTS_DISTANCES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of queries, the sum of out * grad_out of each row, and the gradient of the
    distance bias, which is added atomically."""
    tile = tl.load(Order + tl.program_id(0))
    sequence = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    rows = tile * ROWS + tl.arange(0, ROWS)
    query_base = sequence * query_batch + head * query_head
    key_base = sequence * key_batch + head // group * key_head
    value_base = sequence * value_batch + head // group * value_head
    KeyBias += sequence * key_len
    DistanceBias += head * distance_stride
    GradDistances += head * distance_stride
    Bounds += head * bounds_stride
    ListBounds += head * lists_stride + tile * 3
    own = tl.program_id(1).to(tl.int64) * query_len
    query = _load(Query, query_base, rows, query_row, query_len, CHANNELS, WIDTH)
    out = _load(
        Out, own * VALUE_CHANNELS, rows, VALUE_CHANNELS, query_len, VALUE_CHANNELS, VALUE_WIDTH
    )
    grad_out = _load(
        GradOut, own * VALUE_CHANNELS, rows, VALUE_CHANNELS, query_len, VALUE_CHANNELS, VALUE_WIDTH
    )
    lse = tl.load(Lse + own + rows, mask=rows < query_len, other=float("inf"))
    delta = tl.sum(out.to(tl.float32) * grad_out.to(tl.float32), 1)
    tl.store(Delta + own + rows, delta, mask=rows < query_len)
    grads = tl.zeros((ROWS, WIDTH), tl.float32)
    start = tl.load(ListBounds)
    middle = tl.load(ListBounds + 1)
    stop = tl.load(ListBounds + 2)
    for place in range(start, middle):
        grads = _query_step(
            query, grad_out, lse, delta, grads, tl.load(Blocks + place), Key, key_base, key_row,
            Value, value_base, value_row, rows, scale, KeyBias, DistanceBias, GradDistances,
            Bounds, query_len, key_len, offset, tokens, lead, group_rows,
            CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, KEYS, RANGES, CAUSAL, True,
            HAS_KEY_BIAS, HAS_DISTANCES, WANTS_DISTANCES, PRECISION,
        )  # fmt: skip
    for place in range(middle, stop):
        grads = _query_step(
            query, grad_out, lse, delta, grads, tl.load(Blocks + place), Key, key_base, key_row,
            Value, value_base, value_row, rows, scale, KeyBias, DistanceBias, GradDistances,
            Bounds, query_len, key_len, offset, tokens, lead, group_rows,
            CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, KEYS, RANGES, CAUSAL, False,
            HAS_KEY_BIAS, HAS_DISTANCES, WANTS_DISTANCES, PRECISION,
        )  # fmt: skip
    grads = (grads * scale).to(GradQuery.dtype.element_ty)
    _store(GradQuery, own * CHANNELS, rows, query_len, grads, CHANNELS, WIDTH)


@triton.jit
def _key_step(
    key, value, grad_key, grad_value, tile, Query, query_base, query_stride, GradOut, Lse, Delta,
    own, columns, scale, KeyBias, DistanceBias, Bounds, query_len, key_len, offset, tokens, lead,
    group_rows,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr, ROWS: tl.constexpr, RANGES: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, HAS_KEY_BIAS: tl.constexpr, HAS_DISTANCES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    rows = tile * ROWS + tl.arange(0, ROWS)
    query = _load(Query, query_base, rows, query_stride, query_len, CHANNELS, WIDTH)
    scores = _scores(
        query, key, rows, columns, scale, KeyBias, DistanceBias, Bounds, query_len, key_len,
        offset, tokens, lead, group_rows,
        RANGES, CAUSAL, MASKED, HAS_KEY_BIAS, HAS_DISTANCES, PRECISION,
    )  # fmt: skip
    lse = tl.load(Lse + own + rows, mask=rows < query_len, other=float("inf"))
    delta = tl.load(Delta + own + rows, mask=rows < query_len, other=0.0)
    weights = tl.exp2(scores - lse[:, None])
    grad_out = _load(
        GradOut, own * VALUE_CHANNELS, rows, VALUE_CHANNELS, query_len, VALUE_CHANNELS, VALUE_WIDTH
    )
    grad_value += tl.dot(tl.trans(weights.to(grad_out.dtype)), grad_out, input_precision=PRECISION)
    by_weight = tl.dot(grad_out, tl.trans(value), input_precision=PRECISION)
    changes = weights * (by_weight - delta[:, None])
    grad_key += tl.dot(tl.trans(changes.to(query.dtype)), query, input_precision=PRECISION)
    return grad_key, grad_value


@triton.jit
def key_gradient(
    Query, Key, Value, KeyBias, DistanceBias, Bounds, Order, ListBounds, Blocks, GradOut, Lse,
    Delta, GradKey, GradValue,
    scale, query_len, key_len, offset, tokens, lead, group_rows, kv_heads, group, bounds_stride,
    lists_stride, distance_stride,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head,
    value_row,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, RANGES: tl.constexpr,
    CAUSAL: tl.constexpr, HAS_KEY_BIAS: tl.constexpr, HAS_DISTANCES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, summed over the query heads that read them."""
    block = tl.load(Order + tl.program_id(0))
    sequence = (tl.program_id(1) // kv_heads).to(tl.int64)
    kv_head = (tl.program_id(1) % kv_heads).to(tl.int64)
    columns = block * KEYS + tl.arange(0, KEYS)
    key_base = sequence * key_batch + kv_head * key_head
    value_base = sequence * value_batch + kv_head * value_head
    KeyBias += sequence * key_len
    key = _load(Key, key_base, columns, key_row, key_len, CHANNELS, WIDTH)
    value = _load(Value, value_base, columns, value_row, key_len, VALUE_CHANNELS, VALUE_WIDTH)
    grad_key = tl.zeros((KEYS, WIDTH), tl.float32)
    grad_value = tl.zeros((KEYS, VALUE_WIDTH), tl.float32)
    for member in range(group):
        head = kv_head * group + member
        query_base = sequence * query_batch + head * query_head
        own = (sequence * kv_heads * group + head) * query_len
        lists = ListBounds + head * lists_stride + block * 3
        start = tl.load(lists)
        middle = tl.load(lists + 1)
        stop = tl.load(lists + 2)
        for place in range(start, middle):
            grad_key, grad_value = _key_step(
                key, value, grad_key, grad_value, tl.load(Blocks + place), Query, query_base,
                query_row, GradOut, Lse, Delta, own, columns, scale, KeyBias,
                DistanceBias + head * distance_stride, Bounds + head * bounds_stride, query_len,
                key_len, offset, tokens, lead, group_rows,
                CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, ROWS, RANGES, CAUSAL, True,
                HAS_KEY_BIAS, HAS_DISTANCES, PRECISION,
            )  # fmt: skip
        for place in range(middle, stop):
            grad_key, grad_value = _key_step(
                key, value, grad_key, grad_value, tl.load(Blocks + place), Query, query_base,
                query_row, GradOut, Lse, Delta, own, columns, scale, KeyBias,
                DistanceBias + head * distance_stride, Bounds + head * bounds_stride, query_len,
                key_len, offset, tokens, lead, group_rows,
                CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, ROWS, RANGES, CAUSAL, False,
                HAS_KEY_BIAS, HAS_DISTANCES, PRECISION,
            )  # fmt: skip
    own = tl.program_id(1).to(tl.int64) * key_len
    grad_key = (grad_key * scale).to(GradKey.dtype.element_ty)
    _store(GradKey, own * CHANNELS, columns, key_len, grad_key, CHANNELS, WIDTH)
    grad_value = grad_value.to(GradValue.dtype.element_ty)
    value_base = own * VALUE_CHANNELS
    _store(GradValue, value_base, columns, key_len, grad_value, VALUE_CHANNELS, VALUE_WIDTH)
