"""Triton kernels of the approximate pseudo-inverse of a softmax matrix (`landmark_inverse`).

One program computes the matrix of a head; all matrices stay in registers.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _square(start, SIZE: tl.constexpr):
    line = tl.arange(0, SIZE)
    return start + line[:, None] * SIZE + line[None, :]


@triton.jit
def _rows(start, count, channels, SIZE: tl.constexpr, CHANNELS: tl.constexpr):
    line, channel = tl.arange(0, SIZE), tl.arange(0, CHANNELS)
    inside = (line[:, None] < count) & (channel[None, :] < channels)
    return tl.load(start + line[:, None] * channels + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _softmax(
    QUERY, KEY, HIDDEN, head, kv_head, batch, rows, columns, channels, scale,
    PRECISION: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Softmax of the scores of a head, 0 beyond its rows and columns and for hidden columns."""
    line = tl.arange(0, SIZE)
    query = _rows(QUERY + head.to(tl.int64) * rows * channels, rows, channels, SIZE, CHANNELS)
    key = _rows(KEY + kv_head.to(tl.int64) * columns * channels, columns, channels, SIZE, CHANNELS)
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
    hidden = tl.load(HIDDEN + batch * columns + line, mask=line < columns, other=1)
    seen = (hidden == 0)[None, :] & (line < rows)[:, None]
    scores = tl.where(seen, scores, -1e30)
    found = tl.where(seen, tl.exp(scores - tl.max(scores, 1)[:, None]), 0.0)
    total = tl.sum(found, 1)
    return found / tl.where(total > 0.0, total, 1.0)[:, None]


@triton.jit
def invert(
    QUERY, KEY, HIDDEN, STEPS, heads, kv_heads, rows, columns, channels, scale,
    ITERATIONS: tl.constexpr, PRECISION: tl.constexpr, SIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """The inverse after each number of iterations, from 0 on."""
    head = tl.program_id(0)
    batch = head // heads
    kv_head = batch * kv_heads + head % heads // (heads // kv_heads)
    matrix = _softmax(QUERY, KEY, HIDDEN, head, kv_head, batch, rows, columns, channels, scale,
                      PRECISION, SIZE, CHANNELS)  # fmt: skip
    line = tl.arange(0, SIZE)
    identity = tl.where(line[:, None] == line[None, :], 1.0, 0.0)
    largest = tl.max(tl.sum(matrix, 0), 0)
    inverse = tl.trans(matrix) / tl.where(largest > 0.0, largest, 1.0)
    start = STEPS + head.to(tl.int64) * (ITERATIONS + 1) * SIZE * SIZE
    tl.store(_square(start, SIZE), inverse)
    for step in range(ITERATIONS):
        rest = identity - tl.dot(matrix, inverse, input_precision=PRECISION)
        inner = rest + 0.25 * tl.dot(rest, rest, input_precision=PRECISION)
        outer = rest + tl.dot(rest, inner, input_precision=PRECISION)
        inverse += tl.dot(inverse, outer, input_precision=PRECISION)
        tl.store(_square(start + (step + 1) * SIZE * SIZE, SIZE), inverse)


@triton.jit
def invert_gradient(
    QUERY, KEY, HIDDEN, STEPS, GRAD, GRAD_QUERY, GRAD_KEY,
    heads, kv_heads, rows, columns, channels, scale,
    ITERATIONS: tl.constexpr, PRECISION: tl.constexpr, SIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of queries and keys (of each query head) from the gradient of the last inverse."""
    head = tl.program_id(0)
    batch = head // heads
    kv_head = batch * kv_heads + head % heads // (heads // kv_heads)
    matrix = _softmax(QUERY, KEY, HIDDEN, head, kv_head, batch, rows, columns, channels, scale,
                      PRECISION, SIZE, CHANNELS)  # fmt: skip
    line, channel = tl.arange(0, SIZE), tl.arange(0, CHANNELS)
    identity = tl.where(line[:, None] == line[None, :], 1.0, 0.0)
    place = GRAD + head.to(tl.int64) * rows * columns + line[:, None] * rows + line[None, :]
    grad = tl.load(place, mask=(line[:, None] < columns) & (line[None, :] < rows), other=0.0)
    grad_matrix = tl.zeros((SIZE, SIZE), tl.float32)
    start = STEPS + head.to(tl.int64) * (ITERATIONS + 1) * SIZE * SIZE
    for done in range(ITERATIONS):
        step = ITERATIONS - 1 - done
        inverse = tl.load(_square(start + step * SIZE * SIZE, SIZE))
        rest = identity - tl.dot(matrix, inverse, input_precision=PRECISION)
        inner = rest + 0.25 * tl.dot(rest, rest, input_precision=PRECISION)
        outer = rest + tl.dot(rest, inner, input_precision=PRECISION)
        grad_outer = tl.dot(tl.trans(inverse), grad, input_precision=PRECISION)
        grad += tl.dot(grad, tl.trans(outer), input_precision=PRECISION)
        grad_inner = tl.dot(tl.trans(rest), grad_outer, input_precision=PRECISION)
        grad_rest = grad_outer + tl.dot(grad_outer, tl.trans(inner), input_precision=PRECISION)
        grad_rest += grad_inner + 0.25 * (
            tl.dot(grad_inner, tl.trans(rest), input_precision=PRECISION)
            + tl.dot(tl.trans(rest), grad_inner, input_precision=PRECISION)
        )
        grad_matrix -= tl.dot(grad_rest, tl.trans(inverse), input_precision=PRECISION)
        grad -= tl.dot(tl.trans(matrix), grad_rest, input_precision=PRECISION)
    sums = tl.sum(matrix, 0)
    largest = tl.max(sums, 0)
    divisor = tl.where(largest > 0.0, largest, 1.0)
    flipped = tl.trans(grad)
    # The divisor is the sum of one column; columns with equal sums share its gradient.
    shared = tl.sum(tl.sum(flipped * matrix, 1), 0) / (divisor * divisor)
    chosen = tl.where(sums == largest, 1.0, 0.0)
    grad_matrix += (
        flipped / divisor - (shared * chosen / tl.maximum(tl.sum(chosen, 0), 1.0))[None, :]
    )
    along = tl.sum(grad_matrix * matrix, 1)
    scores = matrix * (grad_matrix - along[:, None]) * scale
    queries = QUERY + head.to(tl.int64) * rows * channels
    keys = KEY + kv_head.to(tl.int64) * columns * channels
    query = _rows(queries, rows, channels, SIZE, CHANNELS)
    key = _rows(keys, columns, channels, SIZE, CHANNELS)
    grad_query = tl.dot(scores, key, input_precision=PRECISION)
    grad_key = tl.dot(tl.trans(scores), query, input_precision=PRECISION)
    inside = (line[:, None] < rows) & (channel[None, :] < channels)
    place = line[:, None] * channels + channel[None, :]
    tl.store(GRAD_QUERY + head.to(tl.int64) * rows * channels + place, grad_query, mask=inside)
    inside = (line[:, None] < columns) & (channel[None, :] < channels)
    tl.store(GRAD_KEY + head.to(tl.int64) * columns * channels + place, grad_key, mask=inside)
