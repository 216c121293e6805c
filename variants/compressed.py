"""Memory-compressed attention: a query sees one combined key and value for each block of tokens.

Differs from public code: the package memory-compressed-attention (0.0.7) adds one learned key and
value that every query sees, so that early causal rows are not 0. Its convolution mixes the channels
of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call, Parameters
from variants.contract.definitions import (
    compute_dtype,
    dot_products,
    expand_heads,
    group_means,
    masked_softmax,
    query_positions,
    visible,
)
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.engines.gpu.listed import block_softmax, pooled_means
from variants.engines.gpu.listed.key_ranges import KeyRanges, Tiles, stacked, tiles
from variants.engines.gpu.listed.pooled_means import joined_levels
from variants.engines.gpu.tile_widths import tile_sizes
from variants.engines.primitives.precision import Precision
from variants.engines.tiled import pooled_keys, tile_loop
from variants.engines.tiled.layouts.strided import Strided
from variants.engines.tiled.pooled_keys import Pooled


@register(
    title="Generating Wikipedia by Summarizing Long Sequences (memory-compressed attention)",
    year=2018,
    url="https://arxiv.org/abs/1801.10198",
    time="n·(n/b)·d",
    memory="n·d",
    target="biased_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("blocks", "triton"),
    exact_when={"block_size": 1},
    grid={"block_size": (4, 16, 64), "compression": ("mean", "convolution")},
)
@dataclass(frozen=True)
class CompressedAttention(Attention):
    """Softmax attention over compressed keys and values, one for each block of `block_size` tokens.

        mean:         key'[b], value'[b] = means over block b;  bias[b] = log(tokens in block b)
        convolution:  key'[b] = sum over t of key_taps[t] · key[b · block_size + t];  bias[b] = 0;
                      value'[b] in the same way, with value_taps
        output[i] = sum over b of softmax(scale · query[i] · key'[b] + bias[b]) · value'[b]

    With the bias of `mean`, a query of zeros gives the mean of all values. The taps of
    `convolution` are learned: one number for each head and position in a block, separately for keys
    and values. In a causal call, a query sees a block only if no token of the block is later than
    the query. Rows before the last token of the first block see nothing, and are 0. The last block
    may be shorter. `mean` leaves padding out; `convolution` reads padding as zeros.

    Costs: n tokens, d = head_dim, b = block_size.
    """

    block_size: int = hyperparameter(
        64,
        minimum=1,
        doc="number of tokens that are compressed into one key and value",
        small=8,
        train=TimesLength(1 / 16),
    )
    compression: str = hyperparameter(
        "mean",
        choices=("mean", "convolution"),
        doc="how a block becomes one key and value: by its mean, or by a learned convolution",
    )

    @property
    def convex(self) -> bool:
        return self.compression == "mean"

    @property
    def prefix_stable(self) -> bool:
        return False  # the last block is summarised before it is full

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        dtype = Precision.of(query).operands
        size = min(self.block_size, key_len)
        fused = self.choose_implementation(query, key) == "triton"
        items = pooled_keys.tokens(key.to(dtype), value.to(dtype), call.key_padding_mask)
        if self.compression == "mean" and fused:
            levels = joined_levels((size,), key_len)
            items = pooled_means.pooled(key, value, call.key_padding_mask, levels)
        elif self.compression == "mean":
            items = pooled_keys.pool(items, size)
        else:
            items = Pooled(
                _convolved(items.key, call.parameters["key_taps"].to(dtype), size),
                _convolved(items.value, call.parameters["value_taps"].to(dtype), size),
                pooled_keys.grouped(items.size, 1, size).amax(-1),
            )
        if fused:
            tiles = self._listed(query, key, call.causal)
            return block_softmax.run(
                query, items.key, items.value, tiles, scale=call.scale, key_bias=items.bias()
            )
        first = max(0, query_len - key_len) if call.causal else 0
        layout = Strided(
            query_len,
            key_len,
            size,
            first,
            query_len,
            causal=call.causal,
            device=query.device,
        )
        out = tile_loop.run(
            query.to(dtype),
            items.key,
            items.value,
            [layout],
            scale=call.scale,
            key_bias=items.bias(),
        )
        return out.to(query.dtype)

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        if self.choose_implementation(query, key) == "triton":
            self._listed(query, key, call.causal)

    def _listed(self, query: Tensor, key: Tensor, causal: bool) -> Tiles:
        """Return the blocks of keys that the tiles of a kernel for a GPU read."""
        sizes = tile_sizes(query.shape[-1], query.dtype)
        lengths = query.shape[2], key.shape[2]
        return _tiles(*lengths, min(self.block_size, key.shape[2]), causal, sizes, query.device)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        allowed = visible(rows, query_len, key_len, replace(call, causal=False))
        token = torch.arange(key_len, device=rows.device)
        block = token // self.block_size
        if call.causal:
            end = ((block + 1) * self.block_size).clamp(max=key_len) - 1
            allowed = allowed & (end <= query_positions(rows, query_len, key_len)[:, None])
        wide = key.to(compute_dtype(key.dtype))
        if self.compression == "mean":
            compressed = group_means(wide, self.block_size, call.key_padding_mask)
            # Each token has the score of its block, so a softmax over tokens adds log(block size).
            scores = dot_products(query, compressed, rows, call.scale)[..., block]
            return masked_softmax(scores, allowed)
        taps = {name: tensor.to(wide.dtype) for name, tensor in call.parameters.items()}
        size = min(self.block_size, key_len)
        compressed = _convolved(expand_heads(wide, query.shape[1]), taps["key_taps"], size)
        # A block is seen if any of its tokens is seen.
        seen = torch.zeros(*allowed.shape[:-1], int(block[-1]) + 1, device=rows.device)
        seen = seen.index_add(-1, block, allowed.to(seen.dtype)) > 0
        weights = masked_softmax(dot_products(query, compressed, rows, call.scale), seen)
        shares = taps["value_taps"][:, None, token % self.block_size]
        return (weights[..., block] * shares).masked_fill(~allowed, 0)

    def init_parameters(self, heads: int, head_dim: int, seed: int = 0) -> Parameters:
        """Draw `key_taps` and `value_taps` (heads, block_size) of a convolution, near a mean."""
        if self.compression == "mean":
            return {}
        with lasting(seed) as generator:
            shape = (2, heads, self.block_size)
            noise = torch.randn(shape, generator=generator, dtype=torch.float32)
            key_taps, value_taps = (1 + 0.1 * noise) / self.block_size
            return {"key_taps": key_taps.clone(), "value_taps": value_taps.clone()}

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        seen = torch.full((query_len,), -(-key_len // self.block_size), device="cpu")
        if causal:
            behind = torch.arange(1 + key_len - query_len, key_len + 1, device="cpu").clamp(min=0)
            whole = behind // self.block_size
            seen = torch.where(behind < key_len, whole, seen)
        return 4.0 * batch * heads * head_dim * float(seen.sum())


def _convolved(tokens: Tensor, taps: Tensor, size: int) -> Tensor:
    """Convolve tokens (batch, kv_heads, key_len, channels) with the first `size` taps of each head.
    The result is (batch, heads, blocks, channels)."""
    parts = pooled_keys.grouped(tokens, 2, size)
    by_group = taps[:, :size].unflatten(0, (tokens.shape[1], -1))
    return torch.einsum("bknsc,kgs->bkgnc", parts, by_group).flatten(1, 2)


@cached
def _tiles(
    query_len: int,
    tokens: int,
    size: int,
    causal: bool,
    sizes: tuple[int, int],
    device: torch.device,
) -> Tiles:
    """The blocks that each query sees: if causal, those that end at its position or before."""
    blocks = -(-tokens // size)
    positions = tokens - query_len + np.arange(query_len)
    seen = np.where(positions >= tokens - 1, blocks, (positions + 1) // size)
    ranges = KeyRanges(
        stacked([(0, seen if causal else np.full(query_len, blocks))], blocks), query_len, blocks
    )
    return tiles(ranges, *sizes, device)
