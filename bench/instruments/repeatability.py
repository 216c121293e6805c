"""Whether a method gives the same bits again, and the same bits for a sequence in a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from variants import Attention, UnsupportedError

SLOW_MS = 10.0  # calls above this time are not repeated, as the repetitions take time of the sweep
COMPILED_MS = 1000.0  # a first call above this time compiles, perhaps again for another batch


def columns(
    attention: Attention,
    call: Callable[[], Tensor],
    tokens: tuple[Tensor, Tensor, Tensor],
    *,
    causal: bool,
    call_ms: float,
    first_ms: float,
) -> dict[str, bool | None]:
    """The columns `deterministic` and `batch_invariant` of a forward pass; None if not tested.

    Args:
        call: the timed call.
        tokens: query, key and value; with a shared query and key both are one tensor.
        call_ms, first_ms: time of a call, and of the first call with its preparation.
    """
    if call_ms > SLOW_MS:
        return {"deterministic": None, "batch_invariant": None}
    compiles = first_ms > COMPILED_MS
    return {
        "deterministic": is_deterministic(call),
        "batch_invariant": None if compiles else is_batch_invariant(attention, *tokens, causal),
    }


def is_deterministic(call: Callable[[], Tensor]) -> bool:
    """Whether two calls give the same bits."""
    first = call().clone()  # a replayed graph writes each output to the same place
    return same_bits(first, call())


def is_batch_invariant(
    attention: Attention, query: Tensor, key: Tensor, value: Tensor, causal: bool
) -> bool | None:
    """Whether a sequence alone gives the same bits as in a batch, for the first sequence.

    A batch of one sequence gets a second one: the first one, moved by a token. None if the memory
    is not enough, or if the method refuses such a batch.
    """
    try:
        queries, values = _batch(query), _batch(value)
        keys = queries if key is query else _batch(key)
        with torch.no_grad():
            together = attention(queries, keys, values, causal=causal)[:1].clone()
            one = queries[:1].contiguous()
            own = one if key is query else keys[:1].contiguous()
            alone = attention(one, own, values[:1].contiguous(), causal=causal)
    except (UnsupportedError, MemoryError, torch.OutOfMemoryError):
        return None
    return same_bits(together, alone)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one shape and dtype have the same bits; two NaN may differ."""
    as_bytes = (x.contiguous().view(torch.uint8) for x in (left, right))
    return torch.equal(*as_bytes)


def _batch(tokens: Tensor) -> Tensor:
    return tokens if len(tokens) > 1 else torch.cat((tokens, tokens.roll(1, dims=2)))
