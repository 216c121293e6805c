"""The arguments of a call besides query, key and value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

Parameters = dict[str, Tensor]
"""Learned tensors by name, as `Attention.init_parameters` returns them."""


class Keywords(NamedTuple):
    """The keyword arguments of a call as the user gave them; see `Attention.__call__`."""

    causal: bool = False
    key_padding_mask: Tensor | None = None
    distance_bias: Tensor | None = None
    scale: float | None = None
    parameters: Parameters | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """The checked arguments of one call, as kernels and definitions receive them.

    scale: factor on the query.
    causal: hide keys at later positions.
    key_padding_mask: bool (batch, key_len), True = padding; None if no key is padding.
    distance_bias: (heads, query_len + key_len - 1), added to the scaled scores: the score of query
        row i and key j gets entry j - i + query_len - 1. Always None for a variant that does not
        declare `distance_bias`.
    parameters: learned tensors; empty for a variant that learns nothing.
    """

    scale: float
    causal: bool = False
    key_padding_mask: Tensor | None = None
    distance_bias: Tensor | None = None
    parameters: Parameters = field(default_factory=dict)

    def masked(self, key_padding_mask: Tensor | None, distance_bias: Tensor | None) -> Call:
        """The call for some of its sequences, rows and keys, with their mask and bias."""
        return replace(self, key_padding_mask=key_padding_mask, distance_bias=distance_bias)
