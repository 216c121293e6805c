"""How much padding stands before the first token of each sequence of a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.decoding import State
from variants.contract.modes import holds_numbers


def leading_padding(key_padding_mask: Tensor | None) -> Tensor | None:
    """Numbers of padding tokens, int64 (batch,); None if there are none. A GPU is waited for."""
    mask = key_padding_mask
    if mask is None or mask.ndim != 2:
        return None  # the attention says what is wrong with it
    leading = (~mask).int().argmax(-1)
    return leading if not holds_numbers(mask) or bool(leading.any()) else None


def leading_padding_of(
    state: State, key_padding_mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """The same for a step from a state; `key_padding_mask` is of the new tokens."""
    starts = state.starts_with(key_padding_mask)
    if not starts:
        return None
    return torch.tensor([start or 0 for start in starts], device=device)
