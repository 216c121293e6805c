"""The launches of `gathered_softmax`, each one a torch operation. Arguments as in `Gathered` and
`Rules`; `first_head` and `num_heads` select heads of batch·heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from variants.contract.tensor_cache import cached
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.tile_widths import padded_width

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor order, Tensor low, Tensor high, "
_INPUTS += "Tensor? place, Tensor? hidden, "
_RULES = "int copies, float scale, bool hides_later, bool hides_own, bool own_value, "
_HEADS = "int first_head, int num_heads, bool shares"
_GRADS = "Tensor grad_out, Tensor lse, Tensor delta, "


def keys_of_a_tile(query: Tensor) -> int:
    """Number of keys of a tile, so that queries, keys and values fit the shared memory."""
    wide = padded_width(query.shape[-1]) * query.element_size()
    return 64 if wide <= 256 else 32 if wide <= 512 else 16


def _rows_of_a_tile(query: Tensor) -> int:
    return 64 if padded_width(query.shape[-1]) * query.element_size() <= 512 else 32


def _precision(query: Tensor) -> str:
    # Three products of TF32 keep the accuracy of float32; "ieee" does not use the tensor cores, and
    # needs more registers than there are.
    return "tf32x3" if query.dtype is torch.float32 else "tf32"


def _warps(query: Tensor) -> int:
    """Warps of a program, so that its sums fit the registers."""
    return 8 if padded_width(query.shape[-1]) * query.element_size() > 128 else 4


def _tiles(length: int, size: int) -> int:
    return -(-length // size)


@cached
def tile_starts(length: int, size: int, device: torch.device) -> Tensor:
    """The first key of each tile, int32 (1, tiles)."""
    return torch.arange(0, length, size, dtype=torch.int32, device=device)[None]


def _sizes(query: Tensor, key: Tensor, order: Tensor) -> tuple[int, ...]:
    """heads, group, query_len, key_len, head_dim, items."""
    batch, heads, query_len, head_dim = query.shape
    group = heads // key.shape[1]
    return heads, group, query_len, key.shape[2], head_dim, order.numel() // (batch * heads)


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:3]]


def _bytes(hidden: Tensor | None, stand_in: Tensor) -> Tensor:
    return stand_in if hidden is None else hidden.view(torch.uint8)


def _hiding(
    query: Tensor, place: Tensor | None, hidden: Tensor | None, later: bool, own: bool
) -> dict[str, Any]:
    """The constants that all kernels with scores share."""
    return {
        "PLACED": place is not None,
        "HIDES_LATER": later,
        "HIDES_OWN": own,
        "PADDED": hidden is not None,
        "PRECISION": _precision(query),
        "ROWS": _rows_of_a_tile(query),
        "KEYS": keys_of_a_tile(query),
        "CHANNELS": padded_width(query.shape[-1]),
    }


def _forward_shapes(query: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    order, num_heads, shares = arguments[2], arguments[-2], arguments[-1]
    batch, heads, query_len, head_dim = query.shape
    if not shares:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    else:
        rounds = order.numel() // (batch * heads * query_len)
        shape = num_heads, rounds, query_len, head_dim
        out = torch.empty(shape, dtype=torch.float32, device=query.device)
    return out, torch.empty(out.shape[:-1], dtype=torch.float32, device=query.device)


@operation(
    f"gathered_forward({_INPUTS}{_RULES}{_HEADS}) -> (Tensor out, Tensor lse)", _forward_shapes
)
def forward(query: Tensor, key: Tensor, value: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.selected.gathered_softmax_kernels import gathered_forward_kernel

    order, low, high, place, hidden, copies, scale, later, own, own_value, first, count, _ = (
        arguments
    )
    out, lse = _forward_shapes(query, key, value, *arguments)
    sizes = _sizes(query, key, order)
    constants = _hiding(query, place, hidden, later, own)
    launch(
        gathered_forward_kernel,
        (_tiles(sizes[-1], constants["ROWS"]), count),
        *(query, key, value, order, low, high, order if place is None else place),
        *(_bytes(hidden, low), out, lse, scale, first, *sizes, copies * key.shape[2]),
        *_strides(query, key, value),
        **constants,
        num_warps=_warps(query),
        OWN_VALUE=own_value and not arguments[-1],
    )
    return out, lse


def _nothing(*arguments: Any) -> None:
    return None


@operation(
    "merge_items(Tensor partial, Tensor partial_lse, Tensor value, Tensor? hidden, "
    "Tensor(a!) out, Tensor(b!) lse, bool own_value, int first_head) -> ()",
    _nothing,
)
def merge(
    partial: Tensor,
    partial_lse: Tensor,
    value: Tensor,
    hidden: Tensor | None,
    out: Tensor,
    lse: Tensor,
    own_value: bool,
    first_head: int,
) -> None:
    from variants.engines.gpu.selected.gathered_softmax_kernels import merge_items_kernel

    count, rounds, query_len, head_dim = partial.shape
    heads = out.shape[1]
    launch(
        merge_items_kernel,
        (_tiles(query_len, 32), count),
        *(partial, partial_lse, value, _bytes(hidden, lse), out, lse, first_head, heads),
        *(heads // value.shape[1], query_len, value.shape[2], head_dim, rounds),
        *_strides(value),
        PADDED=hidden is not None,
        OWN_VALUE=own_value,
        ROWS=32,
        CHANNELS=padded_width(head_dim),
    )


def _delta_shapes(out: Tensor, grad_out: Tensor) -> Tensor:
    return torch.empty(out.shape[:3], dtype=torch.float32, device=out.device)


@operation("row_delta(Tensor out, Tensor grad_out) -> Tensor", _delta_shapes)
def row_delta(out: Tensor, grad_out: Tensor) -> Tensor:
    from variants.engines.gpu.selected.gathered_gradient_kernels import row_delta_kernel

    batch, heads, query_len, head_dim = out.shape
    delta = _delta_shapes(out, grad_out)
    launch(
        row_delta_kernel,
        (_tiles(query_len, 32), batch * heads),
        *(out, grad_out, delta, heads, query_len, head_dim, *_strides(grad_out)),
        ROWS=32,
        CHANNELS=padded_width(head_dim),
    )
    return delta


def _query_shapes(query: Tensor, *arguments: Any) -> Tensor:
    return _forward_shapes(query, *arguments)[0]


@operation(f"gathered_query_gradient({_INPUTS}{_GRADS}{_RULES}{_HEADS}) -> Tensor", _query_shapes)
def query_gradient(query: Tensor, key: Tensor, value: Tensor, *arguments: Any) -> Tensor:
    from variants.engines.gpu.selected.gathered_gradient_kernels import (
        gathered_query_gradient_kernel,
    )

    order, low, high, place, hidden, grad_out, lse, delta, copies, scale, later, own = arguments[
        :12
    ]
    first, count = arguments[-3:-1]
    result = _query_shapes(query, key, value, *arguments)
    sizes = _sizes(query, key, order)
    constants = _hiding(query, place, hidden, later, own)
    launch(
        gathered_query_gradient_kernel,
        (_tiles(sizes[-1], constants["ROWS"]), count),
        *(query, key, value, order, low, high, order if place is None else place),
        *(_bytes(hidden, low), grad_out, lse, delta, result, scale, first, *sizes),
        *(copies * key.shape[2], *_strides(query, key, value, grad_out)),
        **constants,
        num_warps=_warps(query),
    )
    return result


def _key_shapes(query: Tensor, key: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    copies, num_heads, shares = arguments[9], arguments[-2], arguments[-1]
    if not shares:
        shape, dtype = key.shape, key.dtype
    else:
        shape, dtype = torch.Size((num_heads, copies, *key.shape[2:])), torch.float32
    return torch.empty(shape, dtype=dtype, device=key.device), torch.empty(
        shape, dtype=dtype, device=key.device
    )


@operation(
    f"gathered_key_gradient({_INPUTS}{_GRADS}{_RULES}Tensor begins, Tensor ends, {_HEADS}) "
    "-> (Tensor grad_key, Tensor grad_value)",
    _key_shapes,
)
def key_gradient(
    query: Tensor, key: Tensor, value: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.selected.gathered_gradient_kernels import gathered_key_gradient_kernel

    order, low, high, place, hidden, grad_out, lse, delta, copies, scale, later, own = arguments[
        :12
    ]
    begins, ends, first, count, _ = arguments[-5:]
    grads = _key_shapes(query, key, value, *arguments)
    constants = _hiding(query, place, hidden, later, own)
    tiles = begins.shape[1]
    launch(
        gathered_key_gradient_kernel,
        (tiles, count),
        *(query, key, value, order, low, high, order if place is None else place),
        *(_bytes(hidden, low), grad_out, lse, delta, begins, ends, *grads, scale, first),
        *(*_sizes(query, key, order), copies * key.shape[2], tiles),
        *_strides(query, key, value, grad_out),
        **constants,
        num_warps=_warps(query),
    )
    return grads


@operation(
    "sum_copies(Tensor parts, Tensor(a!) result, Tensor grad_out, Tensor lse, Tensor? hidden, "
    "bool own_value, int first_head, int group) -> ()",
    _nothing,
)
def sum_copies(
    parts: Tensor,
    result: Tensor,
    grad_out: Tensor,
    lse: Tensor,
    hidden: Tensor | None,
    own_value: bool,
    first_head: int,
    group: int,
) -> None:
    from variants.engines.gpu.selected.gathered_gradient_kernels import sum_copies_kernel

    heads, copies, length, head_dim = parts.shape
    launch(
        sum_copies_kernel,
        (_tiles(length, 32), heads // group),
        *(parts, result, grad_out, lse, _bytes(hidden, lse), first_head, copies * group),
        *(length, head_dim, grad_out.shape[1], group, grad_out.shape[2], *_strides(grad_out)),
        PADDED=hidden is not None,
        OWN_VALUE=own_value,
        ROWS=32,
        CHANNELS=padded_width(head_dim),
    )
