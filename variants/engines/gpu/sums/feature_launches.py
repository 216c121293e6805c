"""The launches of the kernels of feature sums, forward: one operation each.

Arguments of all operations:
    inputs: query (batch, heads, query_len, head_dim), key and value (batch, kv_heads, key_len,
        head_dim), each contiguous in the last dimension.
    fixed: the directions of queries and of keys (heads, head_dim, num_features), each as a high and
        a low part in the dtype of the inputs, if the kind is "exp"; the logarithms of the decays
        (heads,) in float32 if the kind is "decay"; else empty.
    padding: bool (batch, key_len), or None.
    state: the weighted sums of values (heads over the batch, chunks + 1, num_features, head_dim),
        the sums of weights and the scales of features (heads over the batch, chunks + 1,
        num_features), all float32; the last two may be empty.
    kind, causal, scale, root: as in `feature_sum.Rule`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.tile_widths import padded_width

ROWS = 64  # rows of a chunk
FEATURES = 64  # random features that a program computes at a time
SCANNED = 1024  # numbers of a state that a program of the scan owns
INPUTS = "Tensor[] inputs, Tensor[] fixed, Tensor? padding"
SETTINGS = "str kind, bool causal, float scale, float root"


def operands(dtype: torch.dtype) -> tuple[torch.dtype, str]:
    """The dtype of the operands of products, and the precision of float32 products. Sums of
    features leave the range of float16, so float16 inputs are multiplied in float32. Three
    TF32 products are as precise as one float32 product, for which a GPU has no matrix unit."""
    return (dtype, "ieee") if dtype is torch.bfloat16 else (torch.float32, "tf32x3")


def chunks_of(length: int) -> int:
    return max(1, -(-length // ROWS))


def strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def seen(padding: Tensor | None, other: Tensor) -> Tensor:
    """The mask as a kernel reads it; `other` replaces a missing mask, and is not read."""
    return other if padding is None else padding.view(torch.uint8)


def placed(fixed: list[Tensor], kind: str, other: Tensor) -> tuple[list[Tensor], Tensor]:
    """Directions and decays; `other` replaces missing ones."""
    directions = fixed if kind == "exp" else [other] * 4
    return directions, fixed[0] if kind == "decay" else other


def constants(like: Tensor, kind: str, features: int, padding: Tensor | None) -> dict[str, Any]:
    """Parameters of kernels that are known when the kernel is compiled."""
    import triton.language as tl

    dtype, precision = operands(like.dtype)
    width = padded_width(like.shape[-1])
    large = width > 64 or kind == "exp"
    return {
        "KIND": kind,
        "PADDED": padding is not None,
        "SPLIT": like.dtype in (torch.float16, torch.bfloat16),
        "OPERAND": getattr(tl, str(dtype).removeprefix("torch.")),
        "PRECISION": precision,
        "ROWS": ROWS,
        "CHANNELS": width,
        "FEATURES": min(FEATURES, padded_width(features)) if kind == "exp" else width,
        "num_warps": 8 if large else 4,
        "num_stages": 1,
    }


def empty_state(like: Tensor, heads: int, chunks: int, features: int, kind: str) -> list[Tensor]:
    slots = heads, chunks + 1, features
    shapes = (
        (*slots, like.shape[-1]),
        (0,) if kind == "decay" else slots,
        slots if kind == "exp" else (0,),
    )
    return [like.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _states(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    heads: int,
    features: int,
    kind: str,
    root: float,
) -> list[Tensor]:
    key = inputs[1]
    return empty_state(key, len(key) * heads, chunks_of(key.shape[2]), features, kind)


@operation(
    f"feature_states({INPUTS}, int heads, int features, str kind, float root) -> Tensor[]", _states
)
def chunk_states(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    heads: int,
    features: int,
    kind: str,
    root: float,
) -> list[Tensor]:
    """The terms of each chunk of keys, before an empty slot, for `heads` states of a sequence."""
    from variants.engines.gpu.sums.feature_sum_kernels import chunk_states as kernel

    _, key, value = inputs
    state = _states(inputs, fixed, padding, heads, features, kind, root)
    batch, kv_heads, key_len, channels = key.shape
    chosen = constants(key, kind, features, padding)
    directions, decay = placed(fixed, kind, key)
    launch(
        kernel,
        (chunks_of(key_len), batch * heads, -(-features // chosen["FEATURES"])),
        *(key, value, seen(padding, key), *directions[2:], decay, *state),
        *strides(key, value),
        *(heads, kv_heads, key_len, channels, features, root),
        **chosen,
    )
    return state


def _nothing(*_: Any) -> None:
    return None


@operation(
    "feature_scan(Tensor(a!)[] state, Tensor[] fixed, int heads, str kind, bool causal, "
    "bool reverse) -> ()",
    _nothing,
)
def scan_states(
    state: list[Tensor], fixed: list[Tensor], heads: int, kind: str, causal: bool, reverse: bool
) -> None:
    """Replace terms by the state before each chunk, in reverse after it, and of all chunks."""
    from variants.engines.gpu.sums.feature_sum_kernels import scan_states as kernel

    states, slots, features, channels = state[0].shape
    width = padded_width(channels)
    block = max(1, SCANNED // width)
    launch(
        kernel,
        (states, -(-features // block)),
        *(*state, placed(fixed, kind, state[0])[1]),
        *(heads, slots - 1, channels, features),
        KIND=kind,
        REVERSE=reverse,
        CAUSAL=causal,
        ROWS=ROWS,
        CHANNELS=width,
        FEATURES=block,
    )


def _outputs(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    state: list[Tensor],
    state_heads: int,
    kind: str,
    causal: bool,
    scale: float,
    root: float,
) -> list[Tensor]:
    query, key, _ = inputs
    rows, keys = query.shape[:3], (*query.shape[:2], key.shape[2])
    shapes = (
        (0,) if kind == "decay" else rows,
        rows if kind == "exp" else (0,),
        keys if kind == "exp" and causal else (0,),
    )
    numbers = [query.new_empty(shape, dtype=torch.float32) for shape in shapes]
    return [torch.empty_like(query, memory_format=torch.contiguous_format), *numbers]


@operation(
    f"feature_outputs({INPUTS}, Tensor[] state, int state_heads, {SETTINGS}) -> Tensor[]", _outputs
)
def chunk_outputs(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    state: list[Tensor],
    state_heads: int,
    kind: str,
    causal: bool,
    scale: float,
    root: float,
) -> list[Tensor]:
    """Outputs, and float32 numbers of each row: the sum of weights, its scale, and the scale of the
    keys of its chunk up to this row."""
    from variants.engines.gpu.sums.feature_sum_kernels import chunk_outputs as kernel

    query, key, _ = inputs
    found = _outputs(inputs, fixed, padding, state, state_heads, kind, causal, scale, root)
    batch, heads, query_len, channels = query.shape
    kv_heads, key_len = key.shape[1:3]
    features, first = state[0].shape[2], (key_len - query_len) // ROWS if causal else 0
    chosen = constants(query, kind, features, padding)
    directions, decay = placed(fixed, kind, query)
    launch(
        kernel,
        (chunks_of(key_len if causal else query_len) - first, batch * heads),
        *(*inputs, seen(padding, query), *directions, decay, *state, *found),
        *strides(*inputs),
        *(heads, kv_heads, state_heads, query_len, key_len, channels, features),
        *(state[0].shape[1] - 1, first, scale, root),
        CAUSAL=causal,
        BLOCKS=-(-features // chosen["FEATURES"]),
        **chosen,
    )
    return found
