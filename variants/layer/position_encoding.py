"""Where a layer may be told of positions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


def check_counts(**counts: int) -> None:
    """Numbers of channels, heads or positions: integers of at least 1; ValueError otherwise."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {count!r}")


class Position(nn.Module):
    """No position at all. An encoding overrides what it acts on, one or more of the three hooks,
    and is made for a layer's `takes`, of which it has `size`.

    `start` is the position of the first token; it may be negative where there are more queries
    than keys. It may also be int64 (batch,), the position in each sequence by itself, where some
    begin with padding: that is at negative positions.
    """

    takes: ClassVar[str] = ""  # embed_dim, num_heads or head_dim; empty if it fits every layer
    size: int = 0

    def reset_parameters(self) -> None:
        """Give what is learned, if anything, the values it begins with."""

    def added(self, hidden: Tensor, start: int | Tensor) -> Tensor:
        """Tokens before they are projected, (batch, tokens, embed_dim); same shape and dtype."""
        return hidden

    def turned(self, heads: Tensor, start: int | Tensor) -> Tensor:
        """Query or key, (batch, heads, tokens, head_dim); same shape and dtype."""
        return heads

    def distance_bias(
        self, query_len: int, key_len: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor | None:
        """(num_heads, query_len + key_len - 1), added to scaled scores as in `Attention`."""
        return None

    @property
    def needs_distance_bias(self) -> bool:
        """Whether it can only serve attentions that declare `distance_bias`."""
        return type(self).distance_bias is not Position.distance_bias
