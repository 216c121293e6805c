"""Triton kernels of the gated delta rule: the rows that keys write, and the states.

Row t writes u_t = write · (value_t - key_t · decayed state). Within a chunk the written rows solve
a triangular system. Its solution is `free` rows, for a state of zeros, minus `known` rows times the
state before the chunk (Yang et al., 2024, https://arxiv.org/abs/2406.06484).
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from variants.engines.gpu.sums.feature_tile_kernels import head_start, load_rows, store_rows

SHORTEST = tl.constexpr(1e-15)  # norm up to which a key counts as zero


@triton.jit
def delta_chunks(
    KEY, VALUE, DECAY, WRITE, UNIT, FREE, KNOWN,
    key_batch, key_head, key_row, value_batch, value_head, value_row,
    heads, kv_heads, key_len, channels,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Keys of unit length, and the free and known rows, of each chunk and query head."""
    chunk, head = tl.program_id(0), tl.program_id(1)
    channel, inner = tl.arange(0, CHANNELS), tl.arange(0, ROWS)
    own = head % heads
    kv_head = head // heads * kv_heads + own // (heads // kv_heads)
    row = chunk * ROWS + inner
    keep = row < key_len
    keys = KEY + head_start(kv_head, kv_heads, key_batch, key_head)
    values = VALUE + head_start(kv_head, kv_heads, value_batch, value_head)
    key = load_rows(keys, row, keep, key_row, channel, channels).to(tl.float32)
    value = load_rows(values, row, keep, value_row, channel, channels).to(tl.float32)
    length = tl.sqrt(tl.sum(key * key, 1))
    key = key / tl.where(length > SHORTEST, length, float("inf"))[:, None]
    log_decay = tl.load(DECAY + own)
    write = tl.exp(tl.load(WRITE + own))
    distance = tl.maximum(inner[:, None] - inner[None, :], 0).to(tl.float32)
    system = tl.dot(key, tl.trans(key), input_precision=PRECISION) * tl.exp(log_decay * distance)
    system = tl.where(inner[None, :] < inner[:, None], system * write, 0.0)
    # The inverse of 1 + system, row by row from the rows above.
    inverse = tl.where(inner[:, None] == inner[None, :], 1.0, 0.0)
    for line in range(1, ROWS):
        here = inner == line
        factors = tl.sum(tl.where(here[:, None], system, 0.0), 0)
        # `factors` belongs to columns; its product with the inverse needs it along rows.
        above = tl.sum(tl.where(inner[:, None] == inner[None, :], factors[None, :], 0.0), 1)
        found = tl.sum(above[:, None] * inverse, 0)
        inverse = inverse - tl.where(here[:, None], found[None, :], 0.0)
    read = key * (write * tl.exp(log_decay * (inner + 1).to(tl.float32)))[:, None]
    free = tl.dot(inverse, value * write, input_precision=PRECISION)
    known = tl.dot(inverse, read, input_precision=PRECISION)
    place = head.to(tl.int64) * key_len * channels
    store_rows(UNIT + place, row, keep, channels, channel, channels, key)
    store_rows(FREE + place, row, keep, channels, channel, channels, free)
    store_rows(KNOWN + place, row, keep, channels, channel, channels, known)


@triton.jit
def delta_states(
    UNIT, FREE, KNOWN, DECAY, WRITTEN, STATES, heads, key_len, channels, chunks,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Written rows, and the states (channels of keys, channels of values) before each chunk and
    after all chunks. A program owns a block of columns of the state and of the rows."""
    head = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel, inner = tl.arange(0, CHANNELS), tl.arange(0, ROWS)
    place = head.to(tl.int64) * key_len * channels
    log_decay = tl.load(DECAY + head % heads)
    whole = tl.exp(log_decay * ROWS)
    to_end = tl.exp(log_decay * (ROWS - 1 - inner).to(tl.float32))
    state = tl.zeros((CHANNELS, COLUMNS), tl.float32)
    for chunk in range(chunks):
        row = chunk * ROWS + inner
        keep = row < key_len
        known = load_rows(KNOWN + place, row, keep, channels, channel, channels)
        free = load_rows(FREE + place, row, keep, channels, column, channels)
        key = load_rows(UNIT + place, row, keep, channels, channel, channels)
        slot = (head.to(tl.int64) * (chunks + 1) + chunk) * channels * channels
        store_rows(STATES + slot, channel, channel < channels, channels, column, channels, state)
        written = free - tl.dot(known, state, input_precision=PRECISION)
        store_rows(WRITTEN + place, row, keep, channels, column, channels, written)
        key = tl.trans(key * to_end[:, None])
        state = state * whole + tl.dot(key, written, input_precision=PRECISION)
    slot = (head.to(tl.int64) * (chunks + 1) + chunks) * channels * channels
    store_rows(STATES + slot, channel, channel < channels, channels, column, channels, state)
