"""Base of the variants that are softmax attention over fewer keys: one statement, the pattern."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from variants.contract.attention import Attention, Parameters
from variants.contract.dense import dot_products, masked_softmax, visible
from variants.contract.pattern import Pattern
from variants.engines import blocks, dense


@dataclass(frozen=True)
class MaskedAttention(Attention):
    """A subclass states `pattern`; kernel, oracle and operation count follow from it."""

    @abstractmethod
    def pattern(self, heads: int, query_len: int, key_len: int, causal: bool) -> Pattern:
        """The keys each query sees."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
    ) -> Tensor:
        pattern = self._pattern(query, key, causal)
        coarse = self.choose_implementation(query, key) == "coarse"
        if pattern.covers_everything() and not coarse:
            return dense.attend(
                query, key, value, causal=causal, key_padding_mask=key_padding_mask, scale=scale
            )
        return blocks.attend(
            query,
            key,
            value,
            pattern,
            key_padding_mask=key_padding_mask,
            scale=scale,
            coarse=coarse,
        )

    def dense_weights(
        self,
        query: Tensor,
        key: Tensor,
        rows: Tensor,
        *,
        causal: bool,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
    ) -> Tensor:
        allowed = visible(
            rows,
            query.shape[2],
            key.shape[2],
            causal=causal,
            key_padding_mask=key_padding_mask,
        )
        allowed = allowed & self._pattern(query, key, causal).mask(rows)
        return masked_softmax(dot_products(query, key, rows, scale), allowed)

    def prepare(self, query: Tensor, key: Tensor, *, causal: bool, **call: Any) -> None:
        _placed.cache_clear()
        self._pattern(query, key, causal)

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float:
        return self.pattern(8, query_len, key_len, causal).pairs()

    def _pattern(self, query: Tensor, key: Tensor, causal: bool) -> Pattern:
        return _placed(self, query.shape[1], query.shape[2], key.shape[2], causal, query.device)


@lru_cache(maxsize=64)
def _placed(
    attention: MaskedAttention,
    heads: int,
    query_len: int,
    key_len: int,
    causal: bool,
    device: torch.device,
) -> Pattern:
    """The pattern with its draws on `device`, kept from call to call."""
    pattern = attention.pattern(heads, query_len, key_len, causal)
    if pattern.random_blocks is None:
        return pattern
    with torch.inference_mode(False):
        return dataclasses.replace(pattern, random_blocks=pattern.random_blocks.to(device))
