"""The base class of variants that compute softmax attention over the keys of a pattern."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.contract.definitions import biased_scores, masked_softmax, visible
from variants.contract.device import on_gpu
from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached
from variants.contract.variant import Memory
from variants.engines.decode import decode_attend
from variants.engines.decode.kv_cache import Ends
from variants.engines.gpu.listed import block_softmax
from variants.engines.gpu.tile_widths import tile_sizes
from variants.engines.libraries import flash_window, flex, fused_sdpa, xformers
from variants.engines.primitives.row_slices import row_slices
from variants.engines.tiled import tile_loop
from variants.masked.pattern_layouts import layouts_of
from variants.masked.pattern_ranges import tiles_of

# Implementations of libraries; all other implementations of a subclass use `tile_loop`.
LIBRARIES = {
    "flash": flash_window.attend,
    "flex": flex.attend,
    "xformers": xformers.attend_window,
}


@dataclass(frozen=True)
class MaskedAttention(Attention):
    """A subclass defines `pattern`; kernel, dense definition and operation count use it."""

    @abstractmethod
    def pattern(self, heads: int, query_len: int, key_len: int, causal: bool) -> Pattern:
        """Return the keys that each query sees."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        pattern = self._pattern(query, key, call.causal)
        implementation = self.choose_implementation(query, key)
        biased = call.key_padding_mask is not None or call.distance_bias is not None
        if implementation == "flash" and self.implementation == "auto" and biased:
            implementation = self._own_implementation(query, key)
        if (library := LIBRARIES.get(implementation)) is not None:
            if call.distance_bias is not None:
                raise UnsupportedError(f"implementation {implementation!r} takes no distance_bias")
            return library(query, key, value, pattern, call)
        coarse = implementation == "coarse"
        if pattern.covers_everything() and not coarse:
            return fused_sdpa.attend(query, key, value, call)
        if implementation == "triton":
            return block_softmax.run(
                query,
                key,
                value,
                tiles_of(pattern, tile_sizes(query.shape[-1], query.dtype), query.device),
                scale=call.scale,
                key_bias=tile_loop.hidden_keys(call.key_padding_mask, query.dtype),
                distance_bias=call.distance_bias,
            )
        return tile_loop.run(
            query,
            key,
            value,
            layouts_of(pattern, query.shape[1], query.device),
            scale=call.scale,
            key_bias=tile_loop.hidden_keys(call.key_padding_mask, query.dtype),
            distance_bias=call.distance_bias,
            coarse=coarse,
        )

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        allowed = visible(rows, query.shape[2], key.shape[2], call)
        allowed = allowed & self._pattern(query, key, call.causal).mask(rows)
        return masked_softmax(biased_scores(query, key, rows, call), allowed)

    def remember(self, heads: int, key: Tensor, value: Tensor, call: Call) -> Memory:
        # A pattern that supports steps consists of the first keys and a window.
        pattern = self.pattern(heads, 1, 1 << 40, True)
        return Ends.of(key, value, call.key_padding_mask, pattern.leading, pattern.window)

    def advance(
        self, memory: Memory, length: int, query: Tensor, key: Tensor, value: Tensor, call: Call
    ) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Ends)
        rows = query.shape[2]
        outs = []
        for some in row_slices(0, rows, decode_attend.FEW):
            padding = None if call.key_padding_mask is None else call.key_padding_mask[:, some]
            memory = memory.and_then(key[:, :, some], value[:, :, some], padding)
            asked, total = query[:, :, some], length + some.stop
            keys, hidden = memory.positions(total), memory.hidden()
            if asked.shape[2] > 1:
                pattern = self.pattern(query.shape[1], asked.shape[2], total, True)
                positions = torch.arange(length + some.start, total, device=query.device)
                unseen = ~pattern.sees(keys, positions[:, None], keys)
                hidden = unseen if hidden is None else hidden | unseen
            bias = None
            if call.distance_bias is not None:
                bias = call.distance_bias[:, rows - some.stop :]
            bias = decode_attend.bias_of(asked, hidden, bias, keys)
            outs.append(decode_attend.attend(asked, memory.parts(), bias, scale=call.scale))
            memory = memory.trimmed()
        return torch.cat(outs, dim=2), memory

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        pattern = self._pattern(query, key, call.causal)
        implementation = self.choose_implementation(query, key)
        if implementation == "flex":
            flex.prepare(query, key, pattern, call)
        elif implementation == "triton":
            tiles_of(pattern, tile_sizes(query.shape[-1], query.dtype), query.device)

    def choose_implementation(self, query: Tensor, key: Tensor) -> str:
        if self.implementation == "auto" and "flash" in self.info.implementations:
            fits = on_gpu(query.device) and flash_window.takes(query, key)
            if fits and flash_window.unavailable(query.device) is None:
                return "flash"
        return self._own_implementation(query, key)

    def _own_implementation(self, query: Tensor, key: Tensor) -> str:
        return super().choose_implementation(query, key)

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        if implementation == "flash":
            return flash_window.unavailable(device)
        if implementation == "xformers":
            return xformers.unavailable(device)
        if implementation == "flex":
            return flex.unavailable(device)
        return super().unavailable(implementation, device)

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
    """Return the pattern with its random blocks on `device`, cached between calls."""
    pattern = attention.pattern(heads, query_len, key_len, causal)
    if pattern.random_blocks is None:
        return pattern
    return dataclasses.replace(pattern, random_blocks=pattern.random_blocks.to(device))
