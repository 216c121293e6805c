"""Tests whether a mask of query-key pairs is causal or hides nothing, apart from padding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE = 1 << 20  # pairs of a mask that are compared at a time


def visible_pairs(mask: Tensor) -> Tensor | None:
    """The mask as bool, True = visible. A bool mask is returned unchanged. A mask that is added to
    the scores is 0 at visible keys and very negative elsewhere; other numbers give None."""
    if mask.dtype == torch.bool:
        return mask
    shown = mask == 0
    hidden = (
        mask <= torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.new_zeros(())
    )
    return shown if bool((shown | hidden.bool()).all()) else None


def mask_kinds(
    visible: Callable[[slice], Tensor], queries: Tensor, keys: Tensor, padding: Tensor | None
) -> tuple[bool, bool]:
    """Whether a mask is the causal mask, and whether it hides nothing, apart from padding.

    Args:
        visible: the mask of some query rows, (batch, heads, rows, key_len), True = visible.
        queries, keys: positions, (query_len) and (key_len).
        padding: (batch, key_len), True = padding; None if there is no padding.
    """
    causal = everything = True
    rest = keys.new_ones(1, dtype=torch.bool) if padding is None else ~padding[:, None, None]
    step = max(1, TILE // len(keys))
    # The last rows are first, because a window hides most keys there.
    for start in reversed(range(0, len(queries), step)):
        rows = slice(start, start + step)
        found = visible(rows)
        past = keys <= queries[rows, None]
        causal = causal and bool((found == (past & rest)).all())
        everything = everything and bool((found == rest).all())
        if not (causal or everything):
            break
    return causal, everything
