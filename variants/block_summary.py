"""Block summaries: a query sees its own block of keys and those beside it, and of every other block
one key and value that represent it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention, Parameters, hyperparameter
from variants.contract.dense import dot_products, masked_softmax, query_positions, visible
from variants.contract.registry import register
from variants.engines import blocks, dense, pooling
from variants.engines.band import Summarised
from variants.engines.matmul import Precision


@register(
    title="Generating Wikipedia by Summarizing Long Sequences (local and compressed attention)",
    year=2018,
    url="https://arxiv.org/abs/1801.10198",
    time="n·(b + n/b)·d",
    memory="n·d + b²",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("blocks",),
    exact_when={"block_size": 1 << 40},
    grid={"block_size": (128,)},
)
@dataclass(frozen=True)
class BlockSummaryAttention(Attention):
    """Blocks of `block_size` tokens. Keys of a query's own block and of the one before and after it
    are seen one by one. Every other block is seen as the mean of its keys, with the mean of its
    values and the logarithm of how many they are (padding left out) added to the score; one softmax
    runs over both kinds. `causal` leaves out later keys and all blocks behind the own one."""

    block_size: int = hyperparameter(128, minimum=1)

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
        query_len, key_len = query.shape[2], key.shape[2]
        offset = key_len - query_len
        if (key_len - 1) // self.block_size - min(0, offset) // self.block_size <= 1:
            # All blocks are neighbours.
            return dense.attend(
                query, key, value, causal=causal, key_padding_mask=key_padding_mask, scale=scale
            )
        dtype = Precision.of(query).operands
        items = pooling.tokens(key.to(dtype), value.to(dtype), key_padding_mask)
        means = pooling.pool(items, self.block_size)
        first = max(0, -offset) if causal else 0
        out = blocks.run(
            query.to(dtype),
            torch.cat([items.key, means.key], dim=2),
            torch.cat([items.value, means.value], dim=2),
            [Summarised(query_len, key_len, self.block_size, first, causal=causal)],
            scale=scale,
            key_bias=torch.cat([items.bias(), means.bias()], dim=1),
        )
        return out.to(query.dtype)

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
        query_len, key_len = query.shape[2], key.shape[2]
        allowed = visible(
            rows, query_len, key_len, causal=causal, key_padding_mask=key_padding_mask
        )
        positions = query_positions(rows, query_len, key_len)[:, None]
        own = positions.div(self.block_size, rounding_mode="floor")
        block = torch.arange(key_len, device=rows.device) // self.block_size
        # A token scores as the mean over the tokens it stands with that are not padding.
        together = block[:, None] == block
        if key_padding_mask is not None:
            together = together & ~key_padding_mask[:, None, None, :]
        share = together.to(key.dtype)
        mean = (share / share.sum(-1, keepdim=True).clamp(min=1)) @ key
        exact = dot_products(query, key, rows, scale)
        scores = torch.where(
            (own - block).abs() <= 1, exact, dot_products(query, mean, rows, scale)
        )
        return masked_softmax(scores, allowed)
