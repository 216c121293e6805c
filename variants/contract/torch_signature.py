"""A call with the arguments of torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.checks import UnsupportedError
from variants.contract.modes import holds_numbers, untraced
from variants.contract.pair_masks import mask_kinds, visible_pairs
from variants.contract.variant import Variant

POSSIBLE = (
    "attn_mask may hide padded keys, as (batch, 1, 1, key_len) or any shape that broadcasts to it; "
    "or it may be causal with the last query at the last key, with or without padded keys. The "
    "attention itself has the arguments causal, key_padding_mask and distance_bias"
)


def read_arguments(
    attention: Variant,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    enable_gqa: bool,
) -> tuple[Tensor, Tensor, bool, Tensor | None]:
    """Translate the arguments of `Attention.scaled_dot_product_attention` into key, value, causal
    and key_padding_mask of a call."""
    name = attention.info.name
    if dropout_p != 0:
        raise UnsupportedError(
            f"{name}: dropout_p must be 0.0, as attention weights are not dropped; got {dropout_p}"
        )
    if attn_mask is not None and is_causal:
        raise ValueError(
            f"{name}: give attn_mask or is_causal=True, not both, as in torch; a causal call of "
            "padded sequences is attention(..., causal=True, key_padding_mask=...)"
        )
    if attn_mask is not None and not isinstance(attn_mask, Tensor):
        raise ValueError(f"{name}: attn_mask must be a tensor; got {type(attn_mask).__name__}")
    causal, padding = is_causal, None
    tensors = all(isinstance(x, Tensor) for x in (query, key, value))
    if tensors and query.ndim == key.ndim == value.ndim == 4:  # otherwise the call raises the error
        heads, kv_heads = query.shape[1], key.shape[1]
        if not enable_gqa and kv_heads not in (1, heads):
            raise ValueError(
                f"{name}: key and value need the heads of the query, or enable_gqa=True; got "
                f"heads={heads}, kv_heads={kv_heads}"
            )
        if is_causal:
            key, value = _first_keys(name, query, key, value)
        if attn_mask is not None:
            causal, padding = _read(attention, attn_mask, query, key)
    return key, value, causal, padding


def _first_keys(name: str, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The first query_len keys and values. torch puts the first query at the first key, so no query
    sees later keys; a causal call here puts the last query at the last key. Without the later keys,
    both definitions are equal."""
    query_len, key_len = query.shape[2], key.shape[2]
    if query_len > key_len:
        raise UnsupportedError(
            f"{name}: is_causal=True puts the first query at the first key, and then needs at "
            f"least as many keys as queries; got query_len={query_len}, key_len={key_len}"
        )
    return key[:, :, :query_len], value[:, :, :query_len]


def _read(
    attention: Variant, mask: Tensor, query: Tensor, key: Tensor
) -> tuple[bool, Tensor | None]:
    """Whether the mask makes the call causal, and the key_padding_mask; None if the mask hides no
    key from all queries."""
    name = attention.info.name
    batch, heads, query_len, _ = query.shape
    key_len = key.shape[2]
    shape = (batch, heads, query_len, key_len)
    fits = mask.ndim >= 2 and mask.dtype in (torch.bool, torch.float32, query.dtype)
    if not (fits and _broadcasts(tuple(mask.shape), shape)):
        raise ValueError(
            f"{name}: attn_mask must be bool, True = visible, or of the query's dtype, and have a "
            f"shape that broadcasts to (batch, heads, query_len, key_len) = {shape}; got "
            f"{mask.dtype} of shape {tuple(mask.shape)}"
        )
    mask = mask.expand(*(1,) * (4 - mask.ndim), *mask.shape[:-1], key_len)
    if _of_keys(mask) and mask.dtype == torch.bool and not holds_numbers(mask):
        causal = attention.info.causal_only and query_len == 1
        return causal, ~mask[:, 0, 0].expand(batch, -1)
    return untraced(_read_pairs)(attention, mask, query_len, batch)


def _of_keys(mask: Tensor) -> bool:
    """Whether the shape of a mask shows that the mask is the same for all heads and queries."""
    return mask.shape[1] == mask.shape[2] == 1


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    sizes = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in sizes)


def _read_pairs(
    attention: Variant, mask: Tensor, query_len: int, batch: int
) -> tuple[bool, Tensor | None]:
    name, key_len = attention.info.name, mask.shape[3]
    if not holds_numbers(mask):
        raise UnsupportedError(
            f"{name}: a traced program cannot read the numbers in attn_mask; give "
            "is_causal=True, or a bool mask of shape (batch, 1, 1, key_len)"
        )
    visible = visible_pairs(mask)
    if visible is None:
        raise UnsupportedError(
            f"{name}: attn_mask must hide keys or show them, with 0 and -inf if it is added to the "
            f"scores; got one that adds other numbers. {POSSIBLE}"
        )
    shown = visible[:, 0, -1]
    if _of_keys(visible):
        causal, everything = query_len == 1, True
    else:
        visible = visible.expand(-1, -1, query_len, -1)
        keys = torch.arange(key_len, device=mask.device)
        queries = torch.arange(key_len - query_len, key_len, device=mask.device)
        causal, everything = mask_kinds(lambda rows: visible[:, :, rows], queries, keys, ~shown)
    if not (causal or everything):
        raise UnsupportedError(
            f"{name}: attn_mask hides keys in a pattern that this method does not support. "
            f"{POSSIBLE}"
        )
    if causal and everything:  # one query
        causal = attention.info.causal_only
    return causal, None if bool(shown.all()) else ~shown.expand(batch, -1)
