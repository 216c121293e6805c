"""Implementations that `add_implementation` adds to variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from variants.contract.call import Call


@dataclass(frozen=True)
class Added:
    """An implementation that is not in the file of its variant."""

    attend: Callable[..., Tensor]
    unavailable: Callable[[torch.device], str | None] | None
    supports: frozenset[str]
    differs: str

    def run(self, attention: Any, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """Call the kernel with the keywords that `add_implementation` documents."""
        keywords = {
            "causal": call.causal,
            "key_padding_mask": call.key_padding_mask,
            "scale": call.scale,
            "parameters": call.parameters,
        }
        if "distance_bias" in self.supports:
            keywords["distance_bias"] = call.distance_bias
        return self.attend(attention, query, key, value, **keywords)


ADDED: dict[tuple[str, str], Added] = {}


def added_names(variant: str) -> tuple[str, ...]:
    """The names of the implementations that were added to a variant."""
    return tuple(name for owner, name in ADDED if owner == variant)
