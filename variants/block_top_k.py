"""Block top-k attention: a query sees its own block of keys and the blocks with the highest scores
of their means.

Differs from public code: MoBA's code is causal only and needs flash-attn. Here calls without
`causal` are possible, means leave padding out, and the earlier of two blocks with equal scores is
chosen first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import dot_products, masked_softmax, query_positions, visible
from variants.contract.device import on_gpu
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.engines.gpu import launches
from variants.engines.gpu.selected import block_selection, gathered_softmax
from variants.engines.libraries import fused_sdpa
from variants.engines.rounds import block_choice, merge_rounds
from variants.engines.rounds.block_choice import ChosenRounds


@register(
    title="MoBA: Mixture of Block Attention for Long-Context LLMs",
    year=2025,
    url="https://arxiv.org/abs/2502.13189",
    time="n·(k·b + n/b)·d",
    memory="n·(k + d)",
    target="masked_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("blocks", "coarse", "triton"),
    reduced_precision={"coarse"},
    exact_when={"block_size": 1 << 40},
    grid={"block_size": (128,), "top_k": (2, 4, 8, 16)},
)
@dataclass(frozen=True)
class BlockTopKAttention(Attention):
    """Softmax attention over `top_k` blocks of `block_size` keys, chosen for each query.

        score(i, b) = scale · query[i] · (mean of the keys of block b)
        blocks(i) = the query's own block, and the top_k - 1 others with the highest score(i, b)
        weights[i] = softmax over j of scale · query[i] · key[j],  where block(j) is in blocks(i)

    A causal call hides later keys of the query's own block, and chooses only among earlier blocks.
    The last block may be shorter. Means leave padding out; a block that contains only padding is
    never chosen. A query at a position before the first key has no block of its own. The selection
    has no gradient.

    Costs: n tokens, d = head_dim, b = block_size, k = top_k.
    """

    block_size: int = hyperparameter(
        128, minimum=1, doc="number of keys in a block", small=8, train=TimesLength(1 / 16)
    )
    top_k: int = hyperparameter(
        4, minimum=1, doc="number of blocks that a query sees, including its own", small=2, train=4
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        implementation = self.choose_implementation(query, key)
        coarse = implementation == "coarse"
        if self.top_k >= -(-key.shape[2] // self.block_size) and not coarse:
            return fused_sdpa.attend(query, key, value, call)
        rows = torch.arange(query.shape[2], device=query.device)
        positions = query_positions(rows, query.shape[2], key.shape[2])
        chosen = self._chosen(query, positions, key, call)
        if implementation == "triton":
            gathered = block_selection.listed(chosen, key.shape[2], self.block_size, call)
            return gathered_softmax.attend(
                query, key, value, gathered, gathered_softmax.Rules(call.scale)
            )
        turns = ChosenRounds(
            chosen, key.shape[2], self.block_size, call.causal, call.key_padding_mask
        )
        return merge_rounds.attend(query, key, value, turns, scale=call.scale, coarse=coarse)[0]

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        positions = query_positions(rows, query_len, key_len)
        asked = query[:, :, rows]
        chosen = self._chosen(asked, positions, key, call)
        blocks = torch.arange(key_len, device=rows.device) // self.block_size
        seen = torch.zeros(1, dtype=torch.bool, device=rows.device)
        for one in chosen.unbind(2):
            seen = seen | (one[..., None] == blocks)
        seen = seen & visible(rows, query_len, key_len, call)
        return masked_softmax(dot_products(query, key, rows, call.scale), seen)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        size = min(self.block_size, key_len)
        positions = torch.arange(query_len, device="cpu") + key_len - query_len
        own = positions.div(size, rounding_mode="floor")
        if causal:
            inside = (positions - own * size + 1).double()
            # The number of blocks from which a row may choose, and the number of keys that it sees.
            scored = own.clamp(min=0).double()
            seen = torch.where(own >= 0, inside + size * scored.clamp(max=self.top_k - 1), 0)
        else:
            scored = torch.full(own.shape, -(-key_len // size), dtype=torch.float64)
            seen = (size * scored.clamp(max=self.top_k)).clamp(max=key_len)
        return batch * heads * head_dim * float(4 * seen.sum() + 2 * scored.sum())

    def _chosen(self, query: Tensor, positions: Tensor, key: Tensor, call: Call) -> Tensor:
        """Return the chosen blocks. On a GPU with Triton, all implementations and the definition
        use the same kernel."""
        device = query.device
        on_device = on_gpu(device) and launches.unavailable(device) is None
        choose = block_selection.best_blocks if on_device else block_choice.best_blocks
        return choose(query, positions, key, call, size=self.block_size, count=self.top_k)
