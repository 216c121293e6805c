"""Base of the variants that are softmax attention over fewer keys: one statement, the pattern."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention, Parameters
from variants.contract.checks import UnsupportedError
from variants.contract.decoding import Memory
from variants.contract.definitions import distance_bias_of, dot_products, masked_softmax, visible
from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached
from variants.engines.decode import decode_attend
from variants.engines.decode.kv_cache import Ends
from variants.engines.libraries import flex, fused_sdpa, xformers
from variants.engines.primitives.row_slices import row_slices
from variants.engines.tiled import tile_loop
from variants.masked.pattern_layouts import layouts_of

# Implementations that are not built here; whatever else a subclass names is one of `blocks`.
LIBRARIES = {"flex": flex.attend, "xformers": xformers.attend_window}


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
        distance_bias: Tensor | None = None,
    ) -> Tensor:
        pattern = self._pattern(query, key, causal)
        implementation = self.choose_implementation(query, key)
        if (library := LIBRARIES.get(implementation)) is not None:
            if distance_bias is not None:
                raise UnsupportedError(f"implementation {implementation!r} takes no distance_bias")
            return library(
                query, key, value, pattern, key_padding_mask=key_padding_mask, scale=scale
            )
        coarse = implementation == "coarse"
        if pattern.covers_everything() and not coarse:
            return fused_sdpa.attend(
                query,
                key,
                value,
                causal=causal,
                key_padding_mask=key_padding_mask,
                scale=scale,
                distance_bias=distance_bias,
            )
        return tile_loop.run(
            query,
            key,
            value,
            layouts_of(pattern, query.shape[1], query.device),
            scale=scale,
            key_bias=tile_loop.hidden_keys(key_padding_mask, query.dtype),
            distance_bias=distance_bias,
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
        distance_bias: Tensor | None = None,
    ) -> Tensor:
        allowed = visible(
            rows,
            query.shape[2],
            key.shape[2],
            causal=causal,
            key_padding_mask=key_padding_mask,
        )
        allowed = allowed & self._pattern(query, key, causal).mask(rows)
        scores = dot_products(query, key, rows, scale)
        if distance_bias is not None:
            bias = distance_bias_of(rows, query.shape[2], key.shape[2], distance_bias)
            scores = scores + bias.to(scores.dtype)
        return masked_softmax(scores, allowed)

    def remember(
        self,
        heads: int,
        key: Tensor,
        value: Tensor,
        *,
        key_padding_mask: Tensor | None,
        parameters: Parameters,
    ) -> Memory:
        # Of a pattern that can step: the first keys, and those of a window.
        pattern = self.pattern(heads, 1, 1 << 40, True)
        return Ends.of(key, value, key_padding_mask, pattern.leading, pattern.window)

    def advance(
        self,
        memory: Memory,
        length: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
        distance_bias: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Ends)
        rows = query.shape[2]
        outs = []
        for some in row_slices(0, rows, decode_attend.FEW):
            padding = None if key_padding_mask is None else key_padding_mask[:, some]
            memory = memory.and_then(key[:, :, some], value[:, :, some], padding)
            asked, total = query[:, :, some], length + some.stop
            keys, hidden = memory.positions(total), memory.hidden()
            if asked.shape[2] > 1:
                pattern = self.pattern(query.shape[1], asked.shape[2], total, True)
                positions = torch.arange(length + some.start, total, device=query.device)
                unseen = ~pattern.sees(keys, positions[:, None], keys)
                hidden = unseen if hidden is None else hidden | unseen
            bias = None
            if distance_bias is not None:
                bias = distance_bias[:, rows - some.stop :]
            bias = decode_attend.bias_of(asked, hidden, bias, keys)
            outs.append(decode_attend.attend(asked, memory.parts(), bias, scale=scale))
            memory = memory.trimmed()
        return torch.cat(outs, dim=2), memory

    def build(
        self, query: Tensor, key: Tensor, *, causal: bool, key_padding_mask: Tensor | None
    ) -> None:
        pattern = self._pattern(query, key, causal)
        if self.choose_implementation(query, key) == "flex":
            scale = self.default_scale(query.shape[-1])
            flex.prepare(query, key, pattern, key_padding_mask=key_padding_mask, scale=scale)

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        if implementation == "xformers":
            return xformers.unavailable(device)
        return flex.unavailable(device) if implementation == "flex" else None

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float:
        return self.pattern(8, query_len, key_len, causal).pairs()

    def _pattern(self, query: Tensor, key: Tensor, causal: bool) -> Pattern:
        return _placed(self, query.shape[1], query.shape[2], key.shape[2], causal, query.device)


@cached
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
    return dataclasses.replace(pattern, random_blocks=pattern.random_blocks.to(device))
