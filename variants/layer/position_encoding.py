"""The base class of position encodings: the places where a layer can use positions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


def check_counts(**counts: int) -> None:
    """Raise ValueError if a number of channels, heads or positions is not an integer above 0."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {count!r}")


class Position(nn.Module):
    """The base class, which encodes no position. An encoding overrides one or more of the three
    hooks. `takes` names the width of a layer that must equal the encoding's `size`.

    `start` is the position of the first token; it may be negative if there are more queries than
    keys. It may also be int64 (batch,), with one position for each sequence, if some sequences
    begin with padding: padding is then at negative positions.
    """

    takes: ClassVar[str] = ""  # embed_dim, num_heads or head_dim; empty if it fits every layer
    size: int = 0

    def reset_parameters(self) -> None:
        """Initialise the learned tensors, if there are any."""

    def added(self, hidden: Tensor, start: int | Tensor) -> Tensor:
        """Encode tokens (batch, tokens, embed_dim) before projection; keep shape and dtype."""
        return hidden

    def turned(self, heads: Tensor, start: int | Tensor) -> Tensor:
        """Encode a query or key (batch, heads, tokens, head_dim); keep shape and dtype."""
        return heads

    def distance_bias(
        self, query_len: int, key_len: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor | None:
        """Return the bias (num_heads, query_len + key_len - 1) that `Attention` adds to scores."""
        return None

    @property
    def needs_distance_bias(self) -> bool:
        """Whether the encoding needs an attention that supports `distance_bias`."""
        return type(self).distance_bias is not Position.distance_bias
