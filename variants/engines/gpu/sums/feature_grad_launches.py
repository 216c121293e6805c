"""The launches of the kernels of the gradients of feature sums: one operation each.

Arguments as in `feature_launches`. `rows` are the four results of `feature_outputs`. `grad` is the
gradient of the output, contiguous in the last dimension. `delta` is the product of each output with
its gradient, (batch, heads, query_len) in float32, and empty if the kind is "decay".
"""

from __future__ import annotations

import torch
from torch import Tensor

from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.sums.feature_launches import (
    INPUTS,
    ROWS,
    SETTINGS,
    chunks_of,
    constants,
    empty_state,
    placed,
    seen,
    strides,
)


def _query_gradient(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    state: list[Tensor],
    rows: list[Tensor],
    grad: Tensor,
    state_heads: int,
    kind: str,
    causal: bool,
    scale: float,
    root: float,
) -> list[Tensor]:
    return [torch.empty_like(rows[0]), torch.empty_like(rows[1])]


@operation(
    f"feature_query_gradient({INPUTS}, Tensor[] state, Tensor[] rows, Tensor grad, "
    f"int state_heads, {SETTINGS}) -> Tensor[]",
    _query_gradient,
)
def query_gradient(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    state: list[Tensor],
    rows: list[Tensor],
    grad: Tensor,
    state_heads: int,
    kind: str,
    causal: bool,
    scale: float,
    root: float,
) -> list[Tensor]:
    """The gradient of queries, and `delta`."""
    from variants.engines.gpu.sums.feature_grad_kernels import query_gradient as kernel

    query, key, _ = inputs
    found = [torch.empty_like(rows[0]), torch.empty_like(rows[1])]
    batch, heads, query_len, channels = query.shape
    kv_heads, key_len = key.shape[1:3]
    features, first = state[0].shape[2], (key_len - query_len) // ROWS if causal else 0
    chosen = constants(query, kind, features, padding)
    directions, decay = placed(fixed, kind, query)
    launch(
        kernel,
        (chunks_of(key_len if causal else query_len) - first, batch * heads),
        *(*inputs, seen(padding, query), *directions, decay, *state),
        *(rows[0], grad, *rows[1:], *found, *strides(*inputs, grad)),
        *(heads, kv_heads, state_heads, query_len, key_len, channels, features),
        *(state[0].shape[1] - 1, first, scale, root),
        CAUSAL=causal,
        BLOCKS=-(-features // chosen["FEATURES"]),
        **chosen,
    )
    return found


def _terms(
    inputs: list[Tensor],
    fixed: list[Tensor],
    state: list[Tensor],
    rows: list[Tensor],
    grad: Tensor,
    delta: Tensor,
    kind: str,
    causal: bool,
    scale: float,
) -> list[Tensor]:
    query, key, _ = inputs
    chunks = chunks_of(key.shape[2] if causal else query.shape[2])
    states = query.shape[0] * query.shape[1]
    return empty_state(query, states, chunks, state[0].shape[2], kind)[:2]


@operation(
    "feature_gradient_terms(Tensor[] inputs, Tensor[] fixed, Tensor[] state, Tensor[] rows, "
    "Tensor grad, Tensor delta, str kind, bool causal, float scale) -> Tensor[]",
    _terms,
)
def gradient_terms(
    inputs: list[Tensor],
    fixed: list[Tensor],
    state: list[Tensor],
    rows: list[Tensor],
    grad: Tensor,
    delta: Tensor,
    kind: str,
    causal: bool,
    scale: float,
) -> list[Tensor]:
    """The terms of each chunk of queries in the gradient of the state: of its sums and totals."""
    from variants.engines.gpu.sums.feature_grad_kernels import gradient_terms as kernel

    query, key, _ = inputs
    found = _terms(inputs, fixed, state, rows, grad, delta, kind, causal, scale)
    heads, query_len, channels = query.shape[1:]
    features = state[0].shape[2]
    chosen = constants(query, kind, features, None)
    chosen.pop("PADDED")
    directions, decay = placed(fixed, kind, query)
    launch(
        kernel,
        (found[0].shape[1] - 1, len(found[0]), -(-features // chosen["FEATURES"])),
        *(query, grad, *directions[:2], decay, state[2], rows[1], rows[2], delta, *found),
        *strides(query, grad),
        *(heads, query_len, key.shape[2] - query_len if causal else 0, channels, features),
        *(state[0].shape[1] - 1, scale),
        CAUSAL=causal,
        **chosen,
    )
    return found


def _key_gradient(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    state: list[Tensor],
    grad_state: list[Tensor],
    rows: list[Tensor],
    grad: Tensor,
    delta: Tensor,
    kind: str,
    causal: bool,
    scale: float,
    root: float,
) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[1:]]


@operation(
    f"feature_key_gradient({INPUTS}, Tensor[] state, Tensor[] grad_state, Tensor[] rows, "
    f"Tensor grad, Tensor delta, {SETTINGS}) -> Tensor[]",
    _key_gradient,
)
def key_gradient(
    inputs: list[Tensor],
    fixed: list[Tensor],
    padding: Tensor | None,
    state: list[Tensor],
    grad_state: list[Tensor],
    rows: list[Tensor],
    grad: Tensor,
    delta: Tensor,
    kind: str,
    causal: bool,
    scale: float,
    root: float,
) -> list[Tensor]:
    """Gradients of keys and values; `grad_state` is the result of `gradient_terms`, scanned."""
    from variants.engines.gpu.sums.feature_grad_kernels import key_gradient as kernel

    query, key, _ = inputs
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[1:]]
    heads, query_len, channels = query.shape[1:]
    batch, kv_heads, key_len = key.shape[:3]
    features = state[0].shape[2]
    chosen = {**constants(query, kind, features, padding), "num_warps": 8}
    directions, decay = placed(fixed, kind, query)
    launch(
        kernel,
        (chunks_of(key_len), batch * kv_heads),
        *(*inputs, seen(padding, query), *directions, decay, state[2], *grad_state),
        *(grad, *rows[1:], delta, *found, *strides(*inputs, grad)),
        *(heads, kv_heads, query_len, key_len, channels, features),
        *(state[0].shape[1] - 1, grad_state[0].shape[1] - 1, scale, root),
        CAUSAL=causal,
        BLOCKS=-(-features // chosen["FEATURES"]),
        **chosen,
    )
    return found
