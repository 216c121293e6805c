"""Triton kernels of `relative_queries`."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _rows_of(Tensor, base, rows, stride, limit, first, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Channels `first` to `first` + CHANNELS of some rows, in float32; 0 outside."""
    channels = tl.arange(0, WIDTH)
    inside = (rows[:, None] < limit) & (channels[None, :] < CHANNELS)
    place = base + rows[:, None].to(tl.int64) * stride + first + channels[None, :]
    return tl.load(Tensor + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _keep(Tensor, base, rows, stride, limit, first, tile, CHANNELS: tl.constexpr,
          WIDTH: tl.constexpr):  # fmt: skip
    channels = tl.arange(0, WIDTH)
    inside = (rows[:, None] < limit) & (channels[None, :] < CHANNELS)
    place = base + rows[:, None].to(tl.int64) * stride + first + channels[None, :]
    tl.store(Tensor + place, tile.to(Tensor.dtype.element_ty), mask=inside)


@triton.jit
def forward(
    Query, ContentBias, PositionBias, Projection, Waves, Out,
    query_len, offset, heads, query_batch, query_head, query_row,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The content channels of a tile of queries, and the channels of their positions."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sequence = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    some = tl.arange(0, 1)
    base = sequence * query_batch + head * query_head
    query = _rows_of(Query, base, rows, query_row, query_len, 0, CHANNELS, WIDTH)
    own = head * CHANNELS
    content = query + _rows_of(ContentBias, own, some, 0, 1, 0, CHANNELS, WIDTH)
    asked = query + _rows_of(PositionBias, own, some, 0, 1, 0, CHANNELS, WIDTH)
    waves = tl.arange(0, HALF_WIDTH)
    own = head * (2 * HALF) * CHANNELS
    by_sine = _rows_of(Projection, own, waves, CHANNELS, HALF, 0, CHANNELS, WIDTH)
    own += HALF * CHANNELS
    by_cosine = _rows_of(Projection, own, waves, CHANNELS, HALF, 0, CHANNELS, WIDTH)
    sines = tl.dot(asked, tl.trans(by_sine), input_precision=PRECISION)
    cosines = tl.dot(asked, tl.trans(by_cosine), input_precision=PRECISION)
    # Rows before the first key see no key, so their position has no effect.
    positions = tl.maximum(rows + offset, 0)
    limit = query_len + offset
    sine = _rows_of(Waves, 0, positions, 2 * HALF, limit, 0, HALF, HALF_WIDTH)
    cosine = _rows_of(Waves, 0, positions, 2 * HALF, limit, HALF, HALF, HALF_WIDTH)
    # sin(p - j) = sin p cos j - cos p sin j; cos(p - j) = cos p cos j + sin p sin j
    target = tl.program_id(1).to(tl.int64) * query_len * (CHANNELS + 2 * HALF)
    length = CHANNELS + 2 * HALF
    _keep(Out, target, rows, length, query_len, 0, content, CHANNELS, WIDTH)
    first = cosines * sine - sines * cosine
    _keep(Out, target, rows, length, query_len, CHANNELS, first, HALF, HALF_WIDTH)
    second = sines * sine + cosines * cosine
    _keep(Out, target, rows, length, query_len, CHANNELS + HALF, second, HALF, HALF_WIDTH)


@triton.jit
def backward(
    Query, PositionBias, Projection, Waves, Grad,
    GradQuery, GradContent, GradPosition, GradProjection,
    query_len, offset, heads, query_batch, query_head, query_row,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, HALF_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of queries; the gradients of the learned tensors are added atomically."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sequence = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    some = tl.arange(0, 1)
    base = sequence * query_batch + head * query_head
    query = _rows_of(Query, base, rows, query_row, query_len, 0, CHANNELS, WIDTH)
    asked = query + _rows_of(PositionBias, head * CHANNELS, some, 0, 1, 0, CHANNELS, WIDTH)
    asked = tl.where(rows[:, None] < query_len, asked, 0.0)
    waves = tl.arange(0, HALF_WIDTH)
    own = head * (2 * HALF) * CHANNELS
    by_sine = _rows_of(Projection, own, waves, CHANNELS, HALF, 0, CHANNELS, WIDTH)
    cosine_own = own + HALF * CHANNELS
    by_cosine = _rows_of(Projection, cosine_own, waves, CHANNELS, HALF, 0, CHANNELS, WIDTH)
    positions = tl.maximum(rows + offset, 0)
    limit = query_len + offset
    sine = _rows_of(Waves, 0, positions, 2 * HALF, limit, 0, HALF, HALF_WIDTH)
    cosine = _rows_of(Waves, 0, positions, 2 * HALF, limit, HALF, HALF, HALF_WIDTH)
    length = CHANNELS + 2 * HALF
    source = tl.program_id(1).to(tl.int64) * query_len * length
    content = _rows_of(Grad, source, rows, length, query_len, 0, CHANNELS, WIDTH)
    first = _rows_of(Grad, source, rows, length, query_len, CHANNELS, HALF, HALF_WIDTH)
    second = _rows_of(Grad, source, rows, length, query_len, CHANNELS + HALF, HALF, HALF_WIDTH)
    grad_sines = second * sine - first * cosine
    grad_cosines = first * sine + second * cosine
    grad_asked = tl.dot(grad_sines, by_sine, input_precision=PRECISION)
    grad_asked += tl.dot(grad_cosines, by_cosine, input_precision=PRECISION)
    target = tl.program_id(1).to(tl.int64) * query_len * CHANNELS
    _keep(GradQuery, target, rows, CHANNELS, query_len, 0, content + grad_asked, CHANNELS, WIDTH)
    used = channels < CHANNELS
    tl.atomic_add(
        GradContent + head * CHANNELS + channels, tl.sum(content, 0), mask=used, sem="relaxed"
    )
    tl.atomic_add(
        GradPosition + head * CHANNELS + channels, tl.sum(grad_asked, 0), mask=used, sem="relaxed"
    )
    kept = (waves[:, None] < HALF) & used[None, :]
    place = GradProjection + own + waves[:, None] * CHANNELS + channels[None, :]
    part = tl.dot(tl.trans(grad_sines), asked, input_precision=PRECISION)
    tl.atomic_add(place, part, mask=kept, sem="relaxed")
    part = tl.dot(tl.trans(grad_cosines), asked, input_precision=PRECISION)
    tl.atomic_add(place + HALF * CHANNELS, part, mask=kept, sem="relaxed")
