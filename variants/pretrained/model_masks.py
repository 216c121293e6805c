"""Makes and reads the attention masks of transformers, without a mask of all pairs.

transformers describes a mask as a function of positions. An implementation makes from this function
the mask that its kernel needs. A variant needs two facts: whether a call is causal, and which keys
are padding. All other masks raise UnsupportedError.

The masks made here have True for keys that may be seen. Their shape tells whether a call is causal:

- (batch, 1, keys) is causal. There may be fewer keys than slots in the cache.
- (batch, 1, 1, keys) is not causal, unless there is one query and its module is causal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.checks import UnsupportedError
from variants.contract.modes import exporting
from variants.contract.pair_masks import mask_kinds, visible_pairs

PLAIN = (
    "expected a mask that is causal or hides nothing, except for padding from a 2-dimensional "
    "attention_mask (1 = token, 0 = padding)"
)


# The attribute of a mask that was made here: whether it shows every key, and its version. All
# layers get the same mask, so they need not read its values, which would wait for a GPU each time.
NOTED = "_shows_every_key"


class Sight(NamedTuple):
    """The facts in a mask of `key_len` keys; `padding` is (batch, key_len), True = hidden."""

    causal: bool
    key_len: int
    padding: Tensor | None


def refuse_export() -> None:
    """Raise UnsupportedError while a program is recorded: it cannot read the values of a mask."""
    if exporting():
        raise UnsupportedError(
            "a model with replaced attention reads the values of its masks, and a program that is "
            "recorded (torch.export, make_fx, fake tensors, torch.jit.trace) cannot read them; "
            "torch.compile works, because it leaves the masks out of its graphs"
        )


def make_mask(
    *,
    batch_size: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    attention_mask: Tensor | None = None,
    kv_offset: int = 0,
    q_length: int | None = None,
    q_offset: int | Tensor = 0,
    cache_position: Tensor | None = None,
    local_size: int | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Tensor:
    """Make a mask as described above. transformers' AttentionMaskInterface names the arguments.

    Raises:
        UnsupportedError: a mask that is not causal and does not show all keys.
    """
    refuse_export()
    if cache_position is not None:  # older versions of transformers
        q_length, q_offset, device = len(cache_position), cache_position[0], cache_position.device
    assert q_length is not None
    first = int(q_offset)
    queries = torch.arange(first, first + q_length, device=device)
    keys = torch.arange(kv_offset, kv_offset + kv_length, device=device)
    batch = torch.arange(batch_size, device=device)[:, None, None, None]

    def visible(rows: slice) -> Tensor:
        found = mask_function(batch, batch.new_zeros(1), queries[rows, None], keys)
        pairs = (1, 1, len(queries[rows]), kv_length)
        return found.expand(torch.broadcast_shapes(found.shape, pairs))

    causal, everything = _known(mask_function) or mask_kinds(visible, queries, keys, None)
    if kv_offset or not (causal or everything):
        tokens = kv_offset + kv_length
        raise UnsupportedError(
            f"{PLAIN}; the model's own mask hides other keys too, at {tokens} tokens of packed "
            "sequences, a prefix or a cache"
            if local_size is None
            else f"{PLAIN}; the model's own window of {local_size} tokens hides other keys too, at "
            f"{tokens} tokens: use fewer tokens, or load the model with sliding_window=None"
        )
    if attention_mask is not None and attention_mask.ndim == 3:  # made here before generation
        attention_mask = attention_mask[:, 0]
    # The empty slots of a cache of fixed size come after the last query.
    seen = min(first + q_length, kv_length) if causal else kv_length
    if attention_mask is None:
        mask = torch.ones(batch_size, seen, dtype=torch.bool, device=device)
    else:
        # If a mask is too short for the last keys, transformers hides these keys.
        missing = max(0, seen - attention_mask.shape[1])
        mask = pad(attention_mask[:, :seen].bool(), (0, missing))
    # With one query and the keys up to its position, the module decides whether it is causal.
    made = mask[:, None, None] if everything else mask[:, None]
    shows_every_key = attention_mask is None or bool(mask.all())
    setattr(made, NOTED, (shows_every_key, _version(made)))
    return made


def read_mask(mask: Tensor | None, query: Tensor, key: Tensor, *, causal: bool | None) -> Sight:
    """Read a mask that was made here, or a mask of all pairs from the model or its caller.

    Args:
        mask: made here; or (batch or 1, heads or 1, query_len or 1, key_len), either bool with
            True = visible, or numbers that are added to the scores.
        query, key: (batch, heads, len, head_dim).
        causal: the module's `is_causal`, None if it has none; it decides if there is no mask, or
            if the mask fits both kinds of calls.

    Raises:
        UnsupportedError: a mask that is not causal and hides more than padding; no mask and no
            `is_causal` of the module.
    """
    refuse_export()
    batch, _, query_len, _ = query.shape
    key_len = key.shape[2]
    if mask is None:
        if causal is None:
            raise UnsupportedError(f"{PLAIN}; got no mask, and the module has no is_causal either")
        return Sight(causal, key_len, None)
    if mask.ndim == 3:
        return Sight(True, mask.shape[2], _padding(mask, mask[:, 0], batch))
    if mask.ndim != 4 or mask.shape[3] < key_len or mask.shape[2] not in (1, query_len):
        raise UnsupportedError(
            f"{PLAIN}; got a mask of shape {tuple(mask.shape)} for {query_len} queries and "
            f"{key_len} keys"
        )
    shown = visible_pairs(mask[..., :key_len])
    if shown is None:
        raise UnsupportedError(f"{PLAIN}; got a mask that adds numbers to the scores")
    last = shown[:, 0, -1]
    if shown.shape[1] == 1 and shown.shape[2] < query_len:
        return Sight(False, key_len, _padding(mask, last, batch))
    if causal and query_len < key_len:
        # The last slots of a cache may be empty. The last query is at the last visible slot.
        key_len = max(query_len, int(last.any(0).nonzero().max()) + 1 if last.any() else 0)
        shown, last = shown[..., :key_len], last[:, :key_len]
    keys = torch.arange(key_len, device=mask.device)
    queries = torch.arange(key_len - query_len, key_len, device=mask.device)
    kinds = mask_kinds(lambda rows: shown[:, :, rows], queries, keys, ~last)
    if not any(kinds):
        raise UnsupportedError(f"{PLAIN}; got another mask of shape {tuple(mask.shape)}")
    return Sight(bool(causal) if all(kinds) else kinds[0], key_len, _padding(mask, last, batch))


def _known(mask_function: Callable[..., Tensor]) -> tuple[bool, bool] | None:
    """Whether a mask function is transformers' causal function, and whether it is the function that
    shows all keys. None if it is neither of them."""
    from transformers import masking_utils

    if mask_function is masking_utils.causal_mask_function:
        return True, False
    if mask_function is getattr(masking_utils, "bidirectional_mask_function", None):
        return False, True
    return None


def _padding(mask: Tensor, shown: Tensor, batch: int) -> Tensor | None:
    """The padding of the keys `shown` (batch or 1, keys), which are the first keys of a mask."""
    shows_every_key, version = getattr(mask, NOTED, (None, None))
    known = shows_every_key is not None and version == _version(mask)
    if not known or (not shows_every_key and shown.shape[1] < mask.shape[-1]):
        shows_every_key = bool(shown.all())
    return None if shows_every_key else ~shown.expand(batch, -1)


def _version(mask: Tensor) -> int | None:
    """A number that changes when a tensor is written to; None in inference mode."""
    return None if mask.is_inference() else mask._version
