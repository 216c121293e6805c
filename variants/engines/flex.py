"""Runs a `Pattern` by FlexAttention: torch compiles one kernel for it, which leaves out the blocks
of keys that no query of a block sees, and asks the pattern inside the blocks that are seen in part.

Dong et al., Flex Attention, 2024, https://arxiv.org/abs/2412.05496
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from variants.contract.attention import UnsupportedError
from variants.contract.pattern import Pattern

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def unavailable(device: torch.device) -> str | None:
    """Why FlexAttention cannot be compiled for this device; None if it can."""
    if device.type == "cpu":
        if not torch.cpu._is_avx2_supported():
            return "FlexAttention for a CPU needs AVX2"
        compiler = os.environ.get("CXX", "g++")
        missing = f"FlexAttention is compiled when called, and there is no C++ compiler {compiler}"
    elif device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "FlexAttention on CUDA needs Triton, which is not installed"
        # Triton builds the launcher of each kernel.
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang")), "gcc")
        missing = f"FlexAttention is compiled when called, and there is no C compiler {compiler}"
    else:
        return f"FlexAttention is for CPU and CUDA; got a tensor on {device.type}"
    return None if shutil.which(compiler.split()[0]) else missing


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Pattern,
    *,
    key_padding_mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Softmax attention over the keys that `pattern` shows; shapes as in `Attention.__call__`.

    The first call with a pattern, and with a shape, dtype or layout it has not met, compiles for
    seconds; `prepare` does that beforehand.

    Raises:
        UnsupportedError: float64; a gradient on a CPU; head_dim below 16 on CUDA.
    """
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    _check(query, gradient)
    if not gradient:
        query, key, value = (x.detach() for x in (query, key, value))
    signature = (
        *((x.shape, x.stride(), x.requires_grad) for x in (query, key, value)),
        query.dtype,
        scale,
        key_padding_mask is not None,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
    )
    kept = _kept.get(pattern)
    if kept is None:
        kept = _kept[pattern] = _Kept(pattern)
    size = _block_size(pattern, query, gradient)
    mask = kept.block_mask(pattern, size, gradient, key_padding_mask, query.device)
    return kept.compiled(signature)(query, key, value, mask, scale, _options(query, size))


def prepare(
    query: Tensor,
    key: Tensor,
    pattern: Pattern,
    *,
    key_padding_mask: Tensor | None,
    scale: float,
) -> None:
    """Compile what a call with such tensors needs: the backward pass too, if the query wants a
    gradient. The device's work may still be under way on return."""
    value = torch.zeros_like(key)
    if not (torch.is_grad_enabled() and query.requires_grad):
        attend(query, key, value, pattern, key_padding_mask=key_padding_mask, scale=scale)
        return
    query, key, value = (x.detach().requires_grad_() for x in (query, key, value))
    out = attend(query, key, value, pattern, key_padding_mask=key_padding_mask, scale=scale)
    torch.autograd.grad(out, (query, key, value), torch.zeros_like(out))


def _check(query: Tensor, gradient: bool) -> None:
    if query.dtype not in DTYPES:
        raise UnsupportedError(
            "FlexAttention takes float16, bfloat16 and float32; "
            f"got {str(query.dtype).removeprefix('torch.')}"
        )
    if gradient and query.device.type == "cpu":
        raise UnsupportedError("FlexAttention has no backward pass on a CPU")
    if query.device.type == "cuda" and query.shape[-1] < 16:
        raise UnsupportedError(
            f"FlexAttention on CUDA needs head_dim of at least 16; got {query.shape[-1]}"
        )


def _block_size(pattern: Pattern, query: Tensor, gradient: bool) -> int:
    """Queries and keys of a block of the lists. Measured on a CPU, 64 is never slower than 128.

    On CUDA torch's own tiles want multiples of 128, the backward pass always; forward in a half
    type they can be made smaller, which saves a pattern of blocks of 64 most of its idle work.
    """
    if query.device.type == "cpu":
        return 64
    small = query.dtype != torch.float32 and query.shape[-1] <= 128 and not gradient
    return 64 if small and pattern.block_size == 64 else 128


def _options(query: Tensor, size: int) -> dict[str, Any]:
    """Tiles of a CUDA kernel may be no larger than the blocks of the lists."""
    if query.device.type == "cuda" and size < 128:
        return {"fwd_BLOCK_M": size, "fwd_BLOCK_N": size}
    return {}


class _Kept:
    """What is made once for a pattern: its block lists and the functions compiled for it."""

    def __init__(self, pattern: Pattern) -> None:
        # In numbers that fit the kernel's 32 bits.
        most = pattern.query_len + pattern.key_len
        self._bounded = dataclasses.replace(
            pattern, window=min(pattern.window, most), block_size=min(pattern.block_size, most)
        )
        self._lists: dict[tuple[Any, ...], _Lists] = {}
        self._compiled: dict[tuple[Any, ...], Callable[..., Tensor]] = {}

    def block_mask(
        self,
        pattern: Pattern,
        size: int,
        gradient: bool,
        key_padding_mask: Tensor | None,
        device: torch.device,
    ) -> Any:
        from torch.nn.attention.flex_attention import BlockMask

        kind = size, key_padding_mask is not None, gradient
        if kind not in self._lists:
            self._lists[kind] = block_lists(pattern, *kind, device)
        bounded = self._bounded

        def mask(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            seen = bounded.sees(head, row + bounded.offset, column)
            if key_padding_mask is not None:
                seen = seen & ~key_padding_mask[batch, column]
            return seen

        return BlockMask(
            (pattern.query_len, pattern.key_len),
            *self._lists[kind],
            BLOCK_SIZE=(size, size),
            mask_mod=mask,
        )

    def compiled(self, signature: tuple[Any, ...]) -> Callable[..., Tensor]:
        if signature not in self._compiled:
            self._compiled[signature] = _to_compile()
        return self._compiled[signature]


# As long as the pattern itself is kept, since lists and kernels take memory.
_kept: WeakKeyDictionary[Pattern, _Kept] = WeakKeyDictionary()


def _to_compile() -> Callable[..., Tensor]:
    """FlexAttention as a function of its own, which torch compiles at its first call."""
    from torch.nn.attention.flex_attention import flex_attention

    def call(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        scale: float,
        options: Any,
    ) -> Tensor:
        return flex_attention(
            query,
            key,
            value,
            block_mask=mask,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=options,
        )

    # torch counts by code object what it has compiled, and gives up at eight.
    call.__code__ = call.__code__.replace()
    return torch.compile(call, dynamic=False, fullgraph=True)


class _Lists(NamedTuple):
    """Which blocks see which, as `BlockMask` wants it.

    Of each pair of tensors the first says how many blocks a row has, int32 (1, heads or 1, rows),
    the second which, int32 (1, heads or 1, rows, columns), the rest of it unused. First the key
    blocks of each query block that are seen in part, then those seen whole; then the query blocks
    of each key block likewise, which only a backward pass needs.

    The unused rest makes this quadratic in the number of blocks: 4 MiB a tensor at 131072 tokens
    and blocks of 128, times the heads if each draws its own.
    """

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor
    full_kv_indices: Tensor
    q_num_blocks: Tensor | None
    q_indices: Tensor | None
    full_q_num_blocks: Tensor | None
    full_q_indices: Tensor | None


def block_lists(
    pattern: Pattern, size: int, padded: bool, gradient: bool, device: torch.device
) -> _Lists:
    """The lists on `device`. With padding no block counts as seen whole, as a kernel asks no
    mask there."""
    with torch.inference_mode(False):
        pairs = block_pairs(pattern, size)
        whole = torch.zeros_like(pairs.whole) if padded else pairs.whole
        by_query = pairs.head * pairs.rows + pairs.row, pairs.column, pairs.rows, pairs.columns
        by_key = pairs.head * pairs.columns + pairs.column, pairs.row, pairs.columns, pairs.rows
        tensors: list[Tensor | None] = []
        for lists, wanted in ((by_query, True), (by_key, gradient)):
            for kind in (~whole, whole):
                if wanted:
                    tensors += _list(*lists, kind, pairs.heads, device)
                else:
                    tensors += [None, None]
        return _Lists(*tensors)  # type: ignore[arg-type]


def _list(
    row: Tensor,
    column: Tensor,
    rows: int,
    columns: int,
    kind: Tensor,
    heads: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The columns of each row, in order; `row` counts the rows of all heads."""
    row, column = row[kind], column[kind]
    order = torch.argsort(row * columns + column)
    row, column = row[order].to(device), column[order].to(device)
    count = torch.bincount(row, minlength=heads * rows)
    rank = torch.arange(len(row), device=device) - (count.cumsum(0) - count)[row]
    index = torch.zeros(heads * rows, columns, dtype=torch.int32, device=device)
    index[row, rank] = column.int()
    return count.int().view(1, heads, rows), index.view(1, heads, rows, columns)


class BlockPairs(NamedTuple):
    """All pairs of a query block and a key block with something to see, one element a pair."""

    head: Tensor
    row: Tensor
    column: Tensor
    whole: Tensor  # bool: every query of the block sees every key of the block
    heads: int
    rows: int
    columns: int


def block_pairs(pattern: Pattern, size: int) -> BlockPairs:
    """Pairs of blocks of `size`, from the numbers of the pattern: the work grows with the pairs
    there are, not with tokens. On the CPU.

    A pair is there if any of its queries may see any of its keys, and `whole` only if all do; a
    last block that is cut short never is.
    """
    with torch.device("cpu"):
        rows, columns = -(-pattern.query_len // size), -(-pattern.key_len // size)
        any_start, any_stop, all_start, all_stop = _intervals(pattern, size, rows)
        heads, _, width = any_start.shape
        first = (any_start // size).flatten()
        count = torch.where(any_stop > any_start, (any_stop - 1) // size + 1, 0).flatten()
        count = (count - first).clamp(min=0)
        interval = torch.repeat_interleave(count)
        inside = torch.arange(len(interval)) - (count.cumsum(0) - count)[interval]
        line, column = interval // width, first[interval] + inside
        # Intervals of one row may share a block.
        pair = torch.unique(line * columns + column)
        line, column = pair // columns, pair % columns
        head, row = line // rows, line % rows
        start = (column * size)[:, None]
        contained = (all_start[head, row] <= start) & (start + size <= all_stop[head, row])
        whole = contained.any(-1) & ((row + 1) * size <= pattern.query_len)
        return BlockPairs(head, row, column, whole, heads, rows, columns)


def _intervals(pattern: Pattern, size: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intervals of keys of each block of queries, (heads or 1, rows, intervals): start and stop of
    what any of its queries sees, then of what all of them see."""
    blocks = torch.arange(rows)
    first = blocks * size + pattern.offset
    last = ((blocks + 1) * size).clamp(max=pattern.query_len) - 1 + pattern.offset
    step, end = pattern.block_size, pattern.key_len

    def left(position: Tensor) -> Tensor:
        return (position // step - pattern.window) * step

    def right(position: Tensor) -> Tensor:
        return (position // step + pattern.window + 1) * step

    def when(condition: Tensor, limit: int) -> Tensor:
        return torch.where(condition, limit, 0)

    nothing, everything = torch.zeros_like(blocks), torch.full_like(blocks, end)
    reached = (first.clamp(min=0) < pattern.leading) & (last >= 0)
    some_global = reached | (last >= end - pattern.trailing)
    all_global = (first >= 0) & (last < pattern.leading) | (first >= end - pattern.trailing)
    lead, trail = torch.full_like(blocks, pattern.leading), everything - pattern.trailing
    some = [
        (left(first), right(last)),
        (nothing, lead),
        (trail, everything),
        (nothing, when(some_global, end)),
    ]
    every = [
        (left(last), right(first)),
        (nothing, lead),
        (trail, everything),
        (nothing, when(all_global, end)),
    ]
    heads = 1
    if pattern.random_blocks is not None:
        heads = len(pattern.random_blocks)
        # The pattern's own blocks that the rows of each block stand in.
        covered = torch.arange(-(-size // step) + 1)
        own = (first.clamp(min=0) // step)[:, None] + covered
        inside = (own <= (last // step)[:, None]) & (last >= 0)[:, None]
        table = pattern.random_blocks.cpu()
        drawn = table[:, own.clamp(max=table.shape[1] - 1)]
        drawn = drawn.masked_fill(~inside[..., None], -1).flatten(2)
        for draw in drawn.unbind(-1):
            start = draw.clamp(min=0) * step
            stop = torch.where(draw < 0, start, start + step)
            some.append((start, stop))
            alone = (first >= 0) & (first // step == last // step)
            every.append((start, torch.where(alone, stop, start)))

    def stack(intervals: list[tuple[Tensor, Tensor]], limit: Tensor) -> tuple[Tensor, Tensor]:
        starts, stops = (
            torch.stack([x.expand(heads, rows) for x in side], -1)
            for side in zip(*intervals, strict=True)
        )
        return starts.clamp(min=0), torch.minimum(stops, limit[:, None]).clamp(max=end)

    until = (last + 1, first + 1) if pattern.causal else (everything, everything)
    return *stack(some, until[0]), *stack(every, until[1])
