"""Softmax attention over listed blocks of keys: one Triton kernel forward, two backward.

Dao et al., FlashAttention, 2022, https://arxiv.org/abs/2205.14135. The lists of blocks are those of
a block mask, as in Dong et al., Flex Attention, 2024, https://arxiv.org/abs/2412.05496
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.modes import untraced
from variants.contract.strides import readable
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.listed.key_ranges import Tiles
from variants.engines.gpu.tile_widths import padded_width


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiles: Tiles,
    *,
    scale: float,
    key_bias: Tensor | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor:
    """Softmax attention over the keys that `tiles` list. A row that sees no key is 0.

    Args:
        query: (batch, heads, query_len, channels).
        key: (batch, kv_heads, key_len, channels).
        value: (batch, kv_heads, key_len, head_dim).
        scale: factor on the scores; the products are not rounded before.
        key_bias: (batch, key_len), added to the scores of a key; HIDDEN hides the key. Without
            gradient.
        distance_bias: (heads, query_len + key_len - 1), entry j - i + query_len - 1 is added to the
            score of row i and key j. Its gradient is added in an order that is not fixed.

    Returns:
        (batch, heads, query_len, head_dim) in the dtype of the query.
    """
    out: Tensor = untraced(_BlockSoftmax.apply)(
        query, key, value, key_bias, distance_bias, tiles, scale
    )
    return out


class _BlockSoftmax(torch.autograd.Function):
    """Keeps the inputs, the output and one number for each row."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_bias: Tensor | None,
        distance_bias: Tensor | None,
        tiles: Tiles,
        scale: float,
    ) -> Tensor:
        query, key, value = map(readable, (query, key, value))
        biases = _whole(key_bias), _whole(distance_bias)
        out, lse = _forward(
            query, key, value, *biases, tiles.bounds, *tiles.by_query, scale, _numbers(tiles)
        )
        ctx.save_for_backward(query, key, value, *biases, out, lse)
        ctx.settings = tiles, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, key_bias, distance_bias, out, lse = ctx.saved_tensors
        tiles, scale = ctx.settings
        grad_out = grads[0].contiguous()
        wanted = distance_bias is not None and ctx.needs_input_grad[4]
        grad_bias = torch.zeros_like(distance_bias, dtype=torch.float32) if wanted else None
        inputs = query, key, value, key_bias, distance_bias, tiles.bounds
        grad_query, delta = _query_gradient(
            *inputs, *tiles.by_query, out, lse, grad_out, grad_bias, scale, _numbers(tiles)
        )
        grad_key, grad_value = _key_gradient(
            *inputs, *tiles.by_key, grad_out, lse, delta, scale, _numbers(tiles)
        )
        if grad_bias is not None:
            grad_bias = grad_bias.to(distance_bias.dtype)
        return grad_query, grad_key, grad_value, None, grad_bias, None, None


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _numbers(tiles: Tiles) -> list[int]:
    return [tiles.rows, tiles.keys, *tiles.numbers]


def _forward_shapes(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    out = query.new_empty(*query.shape[:3], value.shape[-1])
    return out, query.new_empty(query.shape[:3], dtype=torch.float32)


@operation(
    "block_softmax(Tensor query, Tensor key, Tensor value, Tensor? key_bias, "
    "Tensor? distance_bias, Tensor bounds, Tensor order, Tensor ends, Tensor blocks, float scale, "
    "int[] numbers) -> (Tensor, Tensor)",
    _forward_shapes,
)
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None,
    distance_bias: Tensor | None,
    bounds: Tensor,
    order: Tensor,
    ends: Tensor,
    blocks: Tensor,
    scale: float,
    numbers: Sequence[int],
) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.listed import block_softmax_kernels

    out, lse = _forward_shapes(query, key, value)
    launch(
        block_softmax_kernels.forward,
        (len(order), query.shape[0] * query.shape[1]),
        *_pointers(query, key, value, key_bias, distance_bias),
        *(bounds, order, ends, blocks, out, lse),
        *_sizes(query, key, value, distance_bias, bounds, ends, scale, numbers, query.shape[1]),
        **_constants(query, value, key_bias, distance_bias, bounds, numbers),
        **_options(query, numbers),
    )
    return out, lse


def _query_shapes(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
    return grad_query, query.new_empty(query.shape[:3], dtype=torch.float32)


@operation(
    "block_softmax_query_gradient(Tensor query, Tensor key, Tensor value, Tensor? key_bias, "
    "Tensor? distance_bias, Tensor bounds, Tensor order, Tensor ends, Tensor blocks, Tensor out, "
    "Tensor lse, Tensor grad_out, Tensor(a!)? grad_distances, float scale, int[] numbers) "
    "-> (Tensor, Tensor)",
    _query_shapes,
)
def _query_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None,
    distance_bias: Tensor | None,
    bounds: Tensor,
    order: Tensor,
    ends: Tensor,
    blocks: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_distances: Tensor | None,
    scale: float,
    numbers: Sequence[int],
) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.listed import block_softmax_kernels

    grad_query, delta = _query_shapes(query)
    launch(
        block_softmax_kernels.query_gradient,
        (len(order), query.shape[0] * query.shape[1]),
        *_pointers(query, key, value, key_bias, distance_bias),
        *(bounds, order, ends, blocks, out, lse, grad_out, grad_query, delta),
        lse if grad_distances is None else grad_distances,
        *_sizes(query, key, value, distance_bias, bounds, ends, scale, numbers, query.shape[1]),
        **_constants(query, value, key_bias, distance_bias, bounds, numbers),
        WANTS_DISTANCES=grad_distances is not None,
        **_options(query, numbers),
    )
    return grad_query, delta


def _key_shapes(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return tuple(  # type: ignore[return-value]
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (key, value)
    )


@operation(
    "block_softmax_key_gradient(Tensor query, Tensor key, Tensor value, Tensor? key_bias, "
    "Tensor? distance_bias, Tensor bounds, Tensor order, Tensor ends, Tensor blocks, "
    "Tensor grad_out, Tensor lse, Tensor delta, float scale, int[] numbers) -> (Tensor, Tensor)",
    _key_shapes,
)
def _key_gradient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None,
    distance_bias: Tensor | None,
    bounds: Tensor,
    order: Tensor,
    ends: Tensor,
    blocks: Tensor,
    grad_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    scale: float,
    numbers: Sequence[int],
) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.listed import block_softmax_kernels

    grad_key, grad_value = _key_shapes(query, key, value)
    launch(
        block_softmax_kernels.key_gradient,
        (len(order), key.shape[0] * key.shape[1]),
        *_pointers(query, key, value, key_bias, distance_bias),
        *(bounds, order, ends, blocks, grad_out, lse, delta, grad_key, grad_value),
        *_sizes(query, key, value, distance_bias, bounds, ends, scale, numbers, key.shape[1]),
        **_constants(query, value, key_bias, distance_bias, bounds, numbers),
        **_options(query, numbers, sums=query.shape[-1] + value.shape[-1]),
    )
    return grad_key, grad_value


def _pointers(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None,
    distance_bias: Tensor | None,
) -> tuple[Tensor, ...]:
    """The inputs; a bias that is None is not read, so any tensor takes its place."""
    biases = (query if bias is None else bias for bias in (key_bias, distance_bias))
    return query, key, value, *biases


def _sizes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    distance_bias: Tensor | None,
    bounds: Tensor,
    ends: Tensor,
    scale: float,
    numbers: Sequence[int],
    heads: int,
) -> tuple[float, ...]:
    """The numbers that every kernel reads, in the order of its parameters."""
    _, _, offset, tokens, lead, group_rows, _ = numbers
    return (
        *(scale, query.shape[2], key.shape[2], offset, tokens, lead, group_rows),
        *(heads, query.shape[1] // key.shape[1]),
        *(x.stride(0) if len(x) > 1 else 0 for x in (bounds, ends)),
        0 if distance_bias is None else distance_bias.stride(0),
        *(stride for x in (query, key, value) for stride in x.stride()[:3]),
    )


def _constants(
    query: Tensor,
    value: Tensor,
    key_bias: Tensor | None,
    distance_bias: Tensor | None,
    bounds: Tensor,
    numbers: Sequence[int],
) -> dict[str, Any]:
    return {
        "CHANNELS": query.shape[-1],
        "WIDTH": padded_width(query.shape[-1]),
        "VALUE_CHANNELS": value.shape[-1],
        "VALUE_WIDTH": padded_width(value.shape[-1]),
        "ROWS": numbers[0],
        "KEYS": numbers[1],
        "RANGES": bounds.shape[2],
        "CAUSAL": bool(numbers[-1]),
        "HAS_KEY_BIAS": key_bias is not None,
        "HAS_DISTANCES": distance_bias is not None,
        "PRECISION": "tf32x3",  # with "ieee" a float32 tile needs ten times the registers
    }


def _options(query: Tensor, numbers: Sequence[int], sums: int = 0) -> dict[str, int]:
    """Warps and stages of a program. Shared memory holds as many blocks of keys as there are
    stages. A program that keeps `sums` channels of sums for each key needs more registers."""
    wide = padded_width(query.shape[-1]) * query.dtype.itemsize
    stages = 3 if wide <= 128 else 2 if wide <= 256 else 1
    warps = 8 if numbers[0] > 64 or sums > 160 else 4
    return {"num_warps": warps, "num_stages": stages}
