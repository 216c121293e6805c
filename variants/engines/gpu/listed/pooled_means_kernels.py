"""Triton kernels of `pooled_means`: means of groups of tokens, and the gradient of the tokens."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _halve(tile, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """Sums of neighbouring rows: (2 * GROUPS, WIDTH) to (GROUPS, WIDTH)."""
    return tl.sum(tl.reshape(tile, (GROUPS, 2, WIDTH)), 1)


@triton.jit
def levels(
    Source, SourceSize, Joined, JoinedSize, Begins,
    count, length, heads, source_batch, source_head, source_row, size_batch,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, LEVELS: tl.constexpr,
    COPIES: tl.constexpr, HAS_SIZE: tl.constexpr,
):  # fmt: skip
    """Means of groups of 2, 4, ... 2^LEVELS rows of a list with `count` rows, for one chunk.

    Level l is written from row Begins[l] of the joined list; level 0 is a copy of the rows, written
    if COPIES. Rows are weighted by their size, which is 1 without HAS_SIZE.
    """
    chunk = tl.program_id(0)
    sequence = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    rows = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = (rows[:, None] < count) & (channels[None, :] < CHANNELS)
    base = sequence * source_batch + head * source_head
    tile = tl.load(
        Source + base + rows[:, None].to(tl.int64) * source_row + channels[None, :],
        mask=inside,
        other=0.0,
    )
    if HAS_SIZE:
        size = tl.load(SourceSize + sequence * size_batch + rows, mask=rows < count, other=0.0)
    else:
        size = tl.where(rows < count, 1.0, 0.0)
    target = Joined + tl.program_id(1).to(tl.int64) * length * CHANNELS
    target_size = JoinedSize + sequence * length
    if COPIES:
        begin = tl.load(Begins)
        tl.store(
            target + (begin + rows[:, None]).to(tl.int64) * CHANNELS + channels[None, :],
            tile,
            mask=inside,
        )
        if head == 0:
            tl.store(target_size + begin + rows, size, mask=rows < count)
    sums = tile.to(tl.float32) * size[:, None]
    left = count
    for level in tl.static_range(1, LEVELS + 1):
        # A constexpr of its own cannot be assigned again in the next round of the loop.
        sums = _halve(sums, CHUNK >> level, WIDTH)
        size = tl.sum(tl.reshape(size, (CHUNK >> level, 2)), 1)
        left = (left + 1) // 2
        numbers = chunk * (CHUNK >> level) + tl.arange(0, CHUNK >> level)
        means = (sums / tl.maximum(size, 1.0)[:, None]).to(Joined.dtype.element_ty)
        begin = tl.load(Begins + level)
        kept = (numbers[:, None] < left) & (channels[None, :] < CHANNELS)
        place = target + (begin + numbers[:, None]).to(tl.int64) * CHANNELS + channels[None, :]
        tl.store(place, means, mask=kept)
        if head == 0:
            tl.store(target_size + begin + numbers, size, mask=numbers < left)


@triton.jit
def groups(
    Source, SourceSize, Joined, JoinedSize,
    count, length, heads, group_size, begin, source_batch, source_head, source_row, size_batch,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COPIES: tl.constexpr,
    HAS_SIZE: tl.constexpr,
):  # fmt: skip
    """The mean of one group of `group_size` rows, written to row `begin` + group of the joined
    list. The rows are copied to its beginning if COPIES."""
    group = tl.program_id(0)
    sequence = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    base = sequence * source_batch + head * source_head
    target = Joined + tl.program_id(1).to(tl.int64) * length * CHANNELS
    target_size = JoinedSize + sequence * length
    first = group * group_size
    stop = tl.minimum(first + group_size, count)
    sums = tl.zeros((WIDTH,), tl.float32)
    total = 0.0
    for start in range(first, stop, ROWS):
        rows = start + tl.arange(0, ROWS)
        inside = (rows[:, None] < stop) & (channels[None, :] < CHANNELS)
        tile = tl.load(
            Source + base + rows[:, None].to(tl.int64) * source_row + channels[None, :],
            mask=inside,
            other=0.0,
        )
        if HAS_SIZE:
            size = tl.load(SourceSize + sequence * size_batch + rows, mask=rows < stop, other=0.0)
        else:
            size = tl.where(rows < stop, 1.0, 0.0)
        if COPIES:
            tl.store(
                target + rows[:, None].to(tl.int64) * CHANNELS + channels[None, :],
                tile,
                mask=inside,
            )
            if head == 0:
                tl.store(target_size + rows, size, mask=rows < stop)
        sums += tl.sum(tile.to(tl.float32) * size[:, None], 0)
        total += tl.sum(size, 0)
    mean = (sums / tl.maximum(total, 1.0)).to(Joined.dtype.element_ty)
    tl.store(target + (begin + group) * CHANNELS + channels, mean, mask=channels < CHANNELS)
    if head == 0:
        tl.store(target_size + begin + group, total)


@triton.jit
def gradient(
    GradJoined, JoinedSize, Begins, GroupSizes, SourceSize, Grad,
    count, length, heads, size_batch,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, LEVELS: tl.constexpr,
    HAS_SIZE: tl.constexpr,
):  # fmt: skip
    """Gradient of some tokens: the sum over the levels of the gradient of the token's group, times
    its share in the mean."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sequence = (tl.program_id(1) // heads).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    inside = (rows[:, None] < count) & (channels[None, :] < CHANNELS)
    source = GradJoined + tl.program_id(1).to(tl.int64) * length * CHANNELS
    if HAS_SIZE:
        size = tl.load(SourceSize + sequence * size_batch + rows, mask=rows < count, other=0.0)
    else:
        size = tl.where(rows < count, 1.0, 0.0)
    sums = tl.zeros((ROWS, WIDTH), tl.float32)
    for level in range(LEVELS):
        group_size = tl.load(GroupSizes + level)
        number = tl.load(Begins + level) + rows // group_size
        total = tl.load(JoinedSize + sequence * length + number, mask=rows < count, other=1.0)
        # A copy of a token has the gradient of the token, also if the token is padding.
        share = tl.where(group_size == 1, 1.0, size / tl.maximum(total, 1.0))
        part = tl.load(
            source + number[:, None].to(tl.int64) * CHANNELS + channels[None, :],
            mask=inside,
            other=0.0,
        )
        sums += part.to(tl.float32) * share[:, None]
    target = Grad + tl.program_id(1).to(tl.int64) * count * CHANNELS
    tl.store(
        target + rows[:, None].to(tl.int64) * CHANNELS + channels[None, :],
        sums.to(Grad.dtype.element_ty),
        mask=inside,
    )
