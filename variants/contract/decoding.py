"""Decoding token by token: the state of a causal attention, and its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract import padding
from variants.contract.call import Call, Keywords
from variants.contract.checks import UnsupportedError, check_bias, require
from variants.contract.definitions import without_padding
from variants.contract.modes import no_autocast
from variants.contract.strides import readable
from variants.contract.variant import Memory, Variant


@dataclass(frozen=True)
class State:
    """The data of earlier tokens that later tokens need; `Attention.prefill` returns it.

    A step does not change the given state and returns a new state, so several continuations can
    start from one state.
    """

    attention: Variant
    length: int  # tokens so far, padding included
    shape: tuple[int, int, int, int]  # batch, heads, kv_heads, head_dim
    dtype: torch.dtype  # of the tokens
    device: torch.device
    memory: Memory
    # Position of the first token of each sequence, None if the sequence has no token yet; empty if
    # no sequence begins with padding. If not empty, the memory of an "absolute" method is a tuple
    # with one memory for each sequence.
    starts: tuple[int | None, ...] = ()

    def starts_with(self, key_padding_mask: Tensor | None) -> tuple[int | None, ...]:
        """`starts` after new tokens with this mask."""
        if None not in self.starts:
            return self.starts
        new = first_tokens(key_padding_mask) or (0,) * len(self.starts)
        return tuple(
            (None if late is None else self.length + late) if start is None else start
            for start, late in zip(self.starts, new, strict=True)
        )

    @property
    def nbytes(self) -> int:
        """Bytes that are kept between two steps, including free space for later tokens."""
        storages = [tensor.untyped_storage() for tensor in _tensors(self.memory)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    @property
    def filled_bytes(self) -> int:
        """`nbytes` without the free space."""
        return _filled(self.memory)


def first_state(attention: Variant, query: Tensor, key: Tensor, value: Tensor, call: Call) -> State:
    """The state after the first tokens."""
    mask = call.key_padding_mask
    key, value = (readable(x) for x in without_padding(mask, key, value))
    starts = first_tokens(mask)
    memory: Memory
    if starts and attention.info.positions == "absolute":
        memory = tuple(
            None if start is None else _remember(attention, query, part, call)
            for start, part in zip(starts, _sequences(starts, key, value, mask), strict=True)
        )
    else:
        memory = _remember(attention, query, (key, value, mask), call)
    return State(
        attention, query.shape[2], _shape(query, key), query.dtype, query.device, memory, starts
    )


def step(
    attention: Variant, state: State, query: Tensor, key: Tensor, value: Tensor, call: Call
) -> tuple[Tensor, State]:
    """The output of new tokens, and the state after them; the arguments are already checked."""
    query, key, value = readable(query), readable(key), readable(value)
    key, value = without_padding(call.key_padding_mask, key, value)
    if state.starts and attention.info.positions == "absolute":
        return _step_one_by_one(attention, state, query, key, value, call)
    out, memory = _advance(attention, state.memory, state.length, query, key, value, call)
    length, starts = state.length + key.shape[2], state.starts_with(call.key_padding_mask)
    return out, dataclasses.replace(state, length=length, memory=memory, starts=starts)


def first_tokens(key_padding_mask: Tensor | None) -> tuple[int | None, ...]:
    """Position of the first token of each sequence, as in `State.starts`."""
    if key_padding_mask is None:
        return ()
    found = padding.spans(key_padding_mask)
    starts = tuple(None if span.first == span.last else span.first for span in found)
    return starts if any(start != 0 for start in starts) else ()


def _sequences(
    starts: Sequence[int | None], key: Tensor, value: Tensor, key_padding_mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Keys, values and mask of each sequence separately, beginning at its position in `starts`."""
    for number, start in enumerate(starts):
        own = slice(number, number + 1), slice(start or 0, None)
        mask = None if key_padding_mask is None else key_padding_mask[own]
        if mask is not None and not bool(mask.any()):
            mask = None
        yield key[own[0], :, own[1]], value[own[0], :, own[1]], mask


def _remember(
    attention: Variant, query: Tensor, tokens: tuple[Tensor, Tensor, Tensor | None], call: Call
) -> Memory:
    key, value, mask = tokens
    with torch.no_grad(), no_autocast(query.device):
        return attention.remember(query.shape[1], key, value, call.masked(mask, None))


def _advance(
    attention: Variant,
    memory: Memory,
    length: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: Call,
) -> tuple[Tensor, Memory]:
    with torch.no_grad(), no_autocast(query.device):
        return attention.advance(memory, length, query, key, value, call)


def _step_one_by_one(
    attention: Variant, state: State, query: Tensor, key: Tensor, value: Tensor, call: Call
) -> tuple[Tensor, State]:
    """A step of sequences that begin at different positions. Each sequence has its own memory."""
    starts = state.starts_with(call.key_padding_mask)
    outs: list[Tensor] = []
    memories: list[Memory | None] = []
    late = [max(0, (start or 0) - state.length) for start in starts]
    tokens = _sequences(late, key, value, call.key_padding_mask)
    for number, (start, begin, part) in enumerate(zip(starts, late, tokens, strict=True)):
        asked, memory = query[number : number + 1, :, begin:], state.memory[number]
        if start is None:
            outs.append(torch.zeros_like(asked))
            memories.append(None)
            continue
        bias = call.distance_bias
        if bias is not None:
            entries = asked.shape[2] + state.length + key.shape[2] - start - 1
            bias = bias[:, start : start + entries]
        own_key, own_value, mask = part
        own = call.masked(mask, bias)
        if memory is None:
            with torch.no_grad():
                out = attention.run(asked, own_key, own_value, own)
            memory = _remember(attention, asked, part, call)
        else:
            assert isinstance(memory, tuple)
            length = state.length - start
            out, memory = _advance(attention, memory, length, asked, own_key, own_value, own)
        outs.append(pad(out, (0, 0, begin, 0)))
        memories.append(memory)
    return torch.cat(outs), dataclasses.replace(
        state, length=state.length + key.shape[2], memory=tuple(memories), starts=starts
    )


def _tensors(memory: Memory) -> Iterator[Tensor]:
    for part in memory:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, tuple):
            yield from _tensors(part)


def _filled(part: object) -> int:
    """Bytes of a part of a memory. Buffers with free space state their own `filled_bytes`."""
    if isinstance(part, Tensor):
        return part.nbytes
    own: int | None = getattr(part, "filled_bytes", None)
    if own is None:
        return sum(map(_filled, part)) if isinstance(part, tuple) else 0
    return own


def _shape(query: Tensor, key: Tensor) -> tuple[int, int, int, int]:
    return query.shape[0], query.shape[1], key.shape[1], query.shape[3]


def check_is_state(attention: Variant, state: State) -> None:
    """Check that the first argument of a step is a state."""
    require(attention, "step")
    if not isinstance(state, State):
        raise ValueError(
            f"{attention.info.name}: step takes the state that prefill or a step returned, then "
            f"query, key and value; got a state of type {type(state).__name__}"
        )


def check_tokens(
    attention: Variant, query: Tensor, key: Tensor, value: Tensor, given: Keywords
) -> None:
    """Check the rules of prefill and step that a call does not have: as many queries as keys, and
    no gradient."""
    name = attention.info.name
    require(attention, "step")
    tensors = all(isinstance(x, Tensor) for x in (query, key, value))
    if tensors and query.ndim == key.ndim == 4 and query.shape[2] != key.shape[2]:
        raise ValueError(
            f"{name}: prefill and step take a query, a key and a value for each token; got "
            f"{query.shape[2]} queries and {key.shape[2]} keys"
        )
    learned = given.parameters.values() if isinstance(given.parameters, dict) else ()
    inputs = (query, key, value, given.distance_bias, *learned)
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        raise UnsupportedError(
            f"{name}: decoding has no gradient; call prefill and step under torch.no_grad(), or "
            "the attention itself for training"
        )


def check_state(
    attention: Variant, state: State, query: Tensor, key: Tensor, distance_bias: Tensor | None
) -> None:
    """Check that new tokens match the state."""
    name = attention.info.name
    if state.attention != attention:
        raise ValueError(
            f"{name}: a step needs a state of {attention}; got one of {state.attention}"
        )
    kept = *state.shape, state.dtype, state.device
    given = *_shape(query, key), query.dtype, query.device
    if given != kept:
        raise ValueError(
            f"{name}: tokens of a step must match the earlier tokens, (batch, heads, kv_heads, "
            f"head_dim, dtype, device) = {_spelled(kept)}; got {_spelled(given)}"
        )
    if distance_bias is not None:
        require(attention, "distance_bias")
        check_bias(name, distance_bias, query, state.length + key.shape[2])


def _spelled(facts: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, facts))})"
