"""Token by token: what a causal attention has kept of earlier tokens, and how it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from variants.contract.checks import UnsupportedError, check_bias, check_call, require
from variants.contract.dense import without_padding
from variants.contract.modes import no_autocast

if TYPE_CHECKING:
    from variants.contract.attention import Attention, Parameters

Memory = tuple[object, ...]
"""What one variant keeps: tensors, such tuples of them, and whatever else it needs."""


@dataclass(frozen=True)
class State:
    """Earlier tokens, as far as later ones may ask for them; made by `Attention.prefill`.

    A step leaves the state it is given as it is and returns another, so that one may be gone on
    from several times.
    """

    attention: Attention
    length: int  # tokens so far, padding included
    shape: tuple[int, int, int, int]  # batch, heads, kv_heads, head_dim
    dtype: torch.dtype  # of the tokens
    device: torch.device
    memory: Memory

    @property
    def nbytes(self) -> int:
        """Bytes that are held between two steps, room for later tokens included."""
        storages = [tensor.untyped_storage() for tensor in _tensors(self.memory)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def prefill(
    attention: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    distance_bias: Tensor | None = None,
    scale: float | None = None,
    parameters: Parameters | None = None,
) -> tuple[Tensor, State]:
    """As `Attention.prefill`."""
    _check(attention, query, key, (query, key, value, distance_bias), parameters)
    out = attention(
        query,
        key,
        value,
        causal=True,
        key_padding_mask=key_padding_mask,
        distance_bias=distance_bias,
        scale=scale,
        parameters=parameters,
    )
    key, value = without_padding(key_padding_mask, key, value)
    with torch.no_grad(), no_autocast(query.device):
        memory = attention.remember(
            query.shape[1],
            key,
            value,
            key_padding_mask=key_padding_mask,
            parameters=attention.arguments(query, None, parameters, None)["parameters"],
        )
    return out, State(
        attention, query.shape[2], _shape(query, key), query.dtype, query.device, memory
    )


def step(
    attention: Attention,
    state: State,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    distance_bias: Tensor | None = None,
    scale: float | None = None,
    parameters: Parameters | None = None,
) -> tuple[Tensor, State]:
    """As `Attention.step`."""
    require(attention, "step")
    if not isinstance(state, State):
        raise ValueError(
            f"{attention.info.name}: step takes the state that prefill or a step gave, then query, "
            f"key and value; got a state of type {type(state).__name__}"
        )
    _check(attention, query, key, (query, key, value, distance_bias), parameters)
    check_call(
        attention,
        query,
        key,
        value,
        causal=True,
        key_padding_mask=key_padding_mask,
        distance_bias=None,
    )
    _check_state(attention, state, query, key)
    length = state.length + key.shape[2]
    if distance_bias is not None:
        require(attention, "distance_bias")
        check_bias(attention.info.name, distance_bias, query, length)
    key, value = without_padding(key_padding_mask, key, value)
    with torch.no_grad(), no_autocast(query.device):
        out, memory = attention.advance(
            state.memory,
            state.length,
            query,
            key,
            value,
            key_padding_mask=key_padding_mask,
            **attention.arguments(query, scale, parameters, distance_bias),
        )
    return out, dataclasses.replace(state, length=length, memory=memory)


def _tensors(memory: Memory) -> Iterator[Tensor]:
    for part in memory:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, tuple):
            yield from _tensors(part)


def _shape(query: Tensor, key: Tensor) -> tuple[int, int, int, int]:
    return query.shape[0], query.shape[1], key.shape[1], query.shape[3]


def _check(
    attention: Attention,
    query: Tensor,
    key: Tensor,
    tensors: Iterable[Tensor | None],
    parameters: Parameters | None,
) -> None:
    name = attention.info.name
    require(attention, "step")
    if isinstance(query, Tensor) and query.ndim == key.ndim == 4 and query.shape[2] != key.shape[2]:
        raise ValueError(
            f"{name}: prefill and step take a query, a key and a value of each token; got "
            f"{query.shape[2]} queries and {key.shape[2]} keys"
        )
    learned = parameters.values() if isinstance(parameters, dict) else ()
    if torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in (*tensors, *learned)
    ):
        raise UnsupportedError(
            f"{name}: decoding has no gradient; call prefill and step under torch.no_grad(), or "
            "the attention itself for training"
        )


def _check_state(attention: Attention, state: State, query: Tensor, key: Tensor) -> None:
    name = attention.info.name
    if state.attention != attention:
        raise ValueError(
            f"{name}: a step needs a state of {attention}; got one of {state.attention}"
        )
    kept = *state.shape, state.dtype, state.device
    given = *_shape(query, key), query.dtype, query.device
    if given != kept:
        raise ValueError(
            f"{name}: tokens of a step must be like those before them, (batch, heads, kv_heads, "
            f"head_dim, dtype, device) = {_spelled(kept)}; got {_spelled(given)}"
        )


def _spelled(facts: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, facts))})"
