"""Counts the padding before the first token of each sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.decoding import State
from variants.contract.modes import holds_numbers


def leading_padding(key_padding_mask: Tensor | None) -> Tensor | None:
    """Count the padding before the first token of each sequence, int64 (batch,); None if there is
    no such padding. The call waits for a GPU."""
    mask = key_padding_mask
    if mask is None or mask.ndim != 2:
        return None  # the attention raises the error for another shape
    leading = (~mask).int().argmax(-1)
    return leading if not holds_numbers(mask) or bool(leading.any()) else None


def leading_padding_of(
    state: State, key_padding_mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Count the padding before each first token, for a step. `key_padding_mask` covers only the new
    tokens."""
    starts = state.starts_with(key_padding_mask)
    if not starts:
        return None
    return torch.tensor([start or 0 for start in starts], device=device)
