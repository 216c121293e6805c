"""Lists of keys and values that hold tokens and means of groups of tokens, made by Triton kernels.

The rows of a level are the means of groups of `group_sizes[level]` tokens; a group size of 1 is a
copy of the tokens. Padded tokens have no weight in a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.strides import readable
from variants.contract.tensor_cache import cached
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.tile_widths import padded_width
from variants.engines.tiled.pooled_keys import Pooled

AT_ONCE = 6  # levels that one launch halves
ROWS = 64


class Levels(NamedTuple):
    """The parts of a joined list of `length` rows. Rows that belong to no level have size 0."""

    group_sizes: tuple[int, ...]
    begins: tuple[int, ...]  # first row of each level
    length: int
    has_gaps: bool


def pooled(key: Tensor, value: Tensor, key_padding_mask: Tensor | None, levels: Levels) -> Pooled:
    """The joined list of (batch, kv_heads, key_len, head_dim) keys and values."""
    size = None if key_padding_mask is None else (~key_padding_mask).float().contiguous()
    joined_key, joined_size = _Means.apply(key, size, levels)
    joined_value, _ = _Means.apply(value, size, levels)
    return Pooled(joined_key, joined_value, joined_size)


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, size: Tensor | None, levels: Levels
    ) -> tuple[Tensor, Tensor]:
        tokens = readable(tokens)
        batch, heads, count, channels = tokens.shape
        # Rows between two levels are not written; they must be finite and have size 0.
        new = tokens.new_zeros if levels.has_gaps else tokens.new_empty
        joined = new(batch, heads, levels.length, channels)
        joined_size = new(batch, levels.length, dtype=torch.float32)
        if levels.group_sizes == tuple(1 << level for level in range(len(levels.group_sizes))):
            _by_halves(tokens, size, joined, joined_size, levels)
        else:
            *copies, group_size = levels.group_sizes
            _group_means(
                tokens, size, joined, joined_size, group_size, levels.begins[-1], bool(copies)
            )
        ctx.save_for_backward(size, joined_size)
        ctx.settings = count, levels
        ctx.mark_non_differentiable(joined_size)
        return joined, joined_size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        size, joined_size = ctx.saved_tensors
        count, levels = ctx.settings
        tables = _tables(levels, joined_size.device)
        return _token_gradient(grads[0].contiguous(), joined_size, size, *tables, count), None, None


def _by_halves(
    tokens: Tensor, size: Tensor | None, joined: Tensor, joined_size: Tensor, levels: Levels
) -> None:
    """Write all levels, `AT_ONCE` levels with one launch; each launch reads the last level of the
    launch before."""
    begins, _ = _tables(levels, joined.device)
    last = len(levels.begins) - 1
    _halved_means(tokens, size, joined, joined_size, begins, min(AT_ONCE, last), True)
    for level in range(AT_ONCE, last, AT_ONCE):
        begin = levels.begins[level]
        rows = -(-tokens.shape[2] // (1 << level))
        source = joined[:, :, begin : begin + rows]
        source_size = joined_size[:, begin : begin + rows]
        more = min(AT_ONCE, last - level)
        _halved_means(source, source_size, joined, joined_size, begins[level:], more, False)


@cached
def _tables(levels: Levels, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first row and the group size of each level, int32, kept on the device."""
    return tuple(  # type: ignore[return-value]
        torch.tensor(numbers, dtype=torch.int32).to(device)
        for numbers in (levels.begins, levels.group_sizes)
    )


@operation(
    "halved_means(Tensor source, Tensor? size, Tensor(a!) joined, Tensor(b!) joined_size, "
    "Tensor begins, int levels, bool copies) -> ()",
    lambda *arguments: None,
)
def _halved_means(
    source: Tensor,
    size: Tensor | None,
    joined: Tensor,
    joined_size: Tensor,
    begins: Tensor,
    levels: int,
    copies: bool,
) -> None:
    from variants.engines.gpu.listed import pooled_means_kernels

    batch, heads, count, channels = source.shape
    launch(
        pooled_means_kernels.levels,
        (-(-count // ROWS), batch * heads),
        *(source, joined_size if size is None else size, joined, joined_size, begins),
        *(count, joined.shape[2], heads, *source.stride()[:3]),
        0 if size is None else size.stride(0),
        CHANNELS=channels,
        WIDTH=padded_width(channels),
        CHUNK=ROWS,
        LEVELS=levels,
        COPIES=copies,
        HAS_SIZE=size is not None,
    )


@operation(
    "group_means(Tensor source, Tensor? size, Tensor(a!) joined, Tensor(b!) joined_size, "
    "int group_size, int begin, bool copies) -> ()",
    lambda *arguments: None,
)
def _group_means(
    source: Tensor,
    size: Tensor | None,
    joined: Tensor,
    joined_size: Tensor,
    group_size: int,
    begin: int,
    copies: bool,
) -> None:
    from variants.engines.gpu.listed import pooled_means_kernels

    batch, heads, count, channels = source.shape
    launch(
        pooled_means_kernels.groups,
        (-(-count // group_size), batch * heads),
        *(source, joined_size if size is None else size, joined, joined_size),
        *(count, joined.shape[2], heads, group_size, begin, *source.stride()[:3]),
        0 if size is None else size.stride(0),
        CHANNELS=channels,
        WIDTH=padded_width(channels),
        ROWS=min(ROWS, padded_width(group_size)),
        COPIES=copies,
        HAS_SIZE=size is not None,
    )


def _gradient_shape(grad: Tensor, joined_size: Tensor, size: Tensor | None, *rest: Any) -> Tensor:
    return grad.new_empty(*grad.shape[:2], rest[-1], grad.shape[3])


@operation(
    "pooled_gradient(Tensor grad, Tensor joined_size, Tensor? size, Tensor begins, "
    "Tensor group_sizes, int count) -> Tensor",
    _gradient_shape,
)
def _token_gradient(
    grad: Tensor,
    joined_size: Tensor,
    size: Tensor | None,
    begins: Tensor,
    group_sizes: Tensor,
    count: int,
) -> Tensor:
    from variants.engines.gpu.listed import pooled_means_kernels

    batch, heads, length, channels = grad.shape
    found = grad.new_empty(batch, heads, count, channels)
    launch(
        pooled_means_kernels.gradient,
        (-(-count // ROWS), batch * heads),
        *(grad, joined_size, begins, group_sizes, joined_size if size is None else size, found),
        *(count, length, heads, 0 if size is None else size.stride(0)),
        CHANNELS=channels,
        WIDTH=padded_width(channels),
        ROWS=ROWS,
        LEVELS=len(begins),
        HAS_SIZE=size is not None,
    )
    return found


def joined_levels(group_sizes: Sequence[int], tokens: int, align: int = 1) -> Levels:
    """Levels one after the other; each begins at a multiple of `align` rows."""
    begins, length, rows = [], 0, 0
    for group_size in group_sizes:
        begins.append(length)
        own = -(-tokens // group_size)
        rows += own
        length += -(-own // align) * align
    return Levels(tuple(group_sizes), tuple(begins), length, length > rows)
