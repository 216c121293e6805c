"""Checks of the settings and arguments of a layer; the contract checks the tensors of a call."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from variants.contract.attention import Attention
from variants.contract.checks import UnsupportedError
from variants.contract.modes import autocasts, holds_numbers
from variants.contract.registry import REGISTRY
from variants.layer.position_encoding import Position


class Layer(Protocol):
    """The parts of a layer that the checks read."""

    attention: Attention
    embed_dim: int
    num_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    shared_qk: bool
    position: Position
    query_projection: nn.Linear


def check_numbers(layer: Layer) -> None:
    """Raise ValueError if the widths and the numbers of heads do not make a layer."""
    for name in ("embed_dim", "num_heads", "kv_heads", "key_dim", "value_dim"):
        number = getattr(layer, name)
        if type(number) is not int or number < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {number!r}")
    if layer.embed_dim % layer.num_heads:
        raise ValueError(
            "embed_dim must be a multiple of num_heads; got "
            f"embed_dim={layer.embed_dim}, num_heads={layer.num_heads}"
        )
    if layer.num_heads % layer.kv_heads:
        raise ValueError(
            "kv_heads must divide num_heads; got "
            f"num_heads={layer.num_heads}, kv_heads={layer.kv_heads}"
        )
    if layer.shared_qk and (layer.kv_heads, layer.key_dim) != (layer.num_heads, layer.embed_dim):
        raise ValueError(
            "shared_qk=True uses the query as the key: it needs kv_heads == num_heads and "
            f"key_dim == embed_dim; got kv_heads={layer.kv_heads}, num_heads={layer.num_heads}, "
            f"key_dim={layer.key_dim}, embed_dim={layer.embed_dim}"
        )
    if layer.attention.uses_shared_qk and not layer.shared_qk:
        raise ValueError(
            f"{layer.attention.info.name} shared_qk=True needs a layer that uses its queries as "
            "keys: make the layer with shared_qk=True; got shared_qk=False"
        )


def check_position(layer: Layer) -> None:
    """Raise an error if the attention or the widths do not support the position encoding."""
    name, attention = type(layer.position).__name__, layer.attention
    if layer.position.needs_distance_bias and "distance_bias" not in attention.supports:
        able = sorted(x for x, cls in REGISTRY.items() if "distance_bias" in cls.info.supports)
        raise UnsupportedError(
            f"position {name} needs distance_bias, which {attention} does not support; these "
            f"variants do: {', '.join(able) or 'none'}"
        )
    widths = {layer.embed_dim, layer.key_dim, layer.value_dim}
    if layer.position.takes == "embed_dim" and len(widths) > 1:
        raise ValueError(
            f"position {name} is added to query, key and value, which must have one width; "
            f"got embed_dim={layer.embed_dim}, key_dim={layer.key_dim}, "
            f"value_dim={layer.value_dim}"
        )


def check_widths(layer: Layer, query: Tensor, key: Tensor | None, value: Tensor | None) -> None:
    """Raise ValueError if tokens do not have the width and the dtype of their projection. The
    attention checks the other sizes."""
    found, said = query, ""
    dtype = layer.query_projection.weight.dtype
    for name, tensor, word, width in (
        ("query", query, "embed_dim", layer.embed_dim),
        ("key", key, "key_dim", layer.key_dim),
        ("value", value, "value_dim", layer.value_dim),
    ):
        if tensor is None:
            said = said or f", because no {name} was given"
        else:
            found, said = tensor, ""
        if not isinstance(found, Tensor):
            raise ValueError(
                f"{name} must be a tensor (batch, tokens, {word} = {width}); got "
                f"{type(found).__name__}"
            )
        if found.ndim != 3 or found.shape[-1] != width:
            raise ValueError(
                f"{name} must be (batch, tokens, {word} = {width}); got {tuple(found.shape)}{said}"
            )
        if found.dtype != dtype and not autocasts(found.device):
            raise ValueError(
                f"{name} must have the layer's dtype {dtype}, except under autocast; got "
                f"{found.dtype}{said}"
            )


def check_foreign(
    layer: Layer,
    query: Tensor,
    key: Tensor | None,
    mask: Tensor | None,
    *,
    causal: bool,
) -> None:
    """Raise UnsupportedError for a position encoding with queries and keys of different sequences,
    if padding can move the last key in some sequences of the batch."""
    foreign = isinstance(key, Tensor) and not causal and query.shape[1] != key.shape[1]
    if mask is None or not foreign or type(layer.position) is Position:
        return
    name = type(layer.position).__name__
    if not holds_numbers(mask):
        raise UnsupportedError(
            f"position {name}: with queries of another sequence and padded keys, the layer must "
            "read where the padding is, and a traced or compiled program cannot read it; call the "
            "layer outside of the program"
        )
    if mask.ndim == 2 and bool(mask[:, -1].any()):
        raise UnsupportedError(
            f"position {name}: with queries of another sequence, the last query has the position "
            "of the last key, and padding on the right moves that key; pad the keys on the left, "
            "or call the layer for one sequence at a time"
        )


def check_polarity(mask: Tensor | None, key: Tensor) -> None:
    """Raise ValueError for a mask that seems to follow another convention."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            "key_padding_mask must be a bool tensor (batch, key_len), True = padding; got "
            f"{found}: if your mask is 1 for tokens and 0 for padding, pass `mask == 0`"
        )
    if not holds_numbers(mask) or mask.shape != key.shape[:2]:
        return
    hidden = mask.all(-1)
    if hidden.any():
        rows = ", ".join(map(str, hidden.nonzero().flatten().tolist()))
        raise ValueError(
            f"key_padding_mask hides every key of sequence {rows}: True means padding; if "
            "True means a token in your mask, pass `~mask`"
        )
