"""Exact top-k attention: a query sees the keys with its highest scores.

Differs from public code: code that calls `torch.topk` keeps exactly `top_k` keys, and chooses
between keys with equal scores by their order. Here all keys with the lowest kept score are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import dot_products, expand_heads, masked_softmax, visible
from variants.contract.hyperparameter import hyperparameter
from variants.contract.registry import register
from variants.engines import row_blocks
from variants.engines.libraries import fused_sdpa


@register(
    title="Memory-efficient Transformers via Top-k Attention",
    year=2021,
    url="https://arxiv.org/abs/2106.06899",
    time="n²·d",
    memory="n·d",
    target="masked_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("row_blocks",),
    exact_when={"top_k": 1 << 40},
    grid={"top_k": (16, 64, 256)},
    positions="none",
)
@dataclass(frozen=True)
class TopKAttention(Attention):
    """Softmax attention over the keys with the `top_k` highest scores of each query.

        s[i, j] = scale · query[i] · key[j],  with j <= i if causal
        weights[i] = softmax over j of s[i, j],  where s[i, j] >= the top_k-th highest s[i, :]

    No method that selects `top_k` keys for each query keeps more attention weight, because this
    method computes all scores first. It is a reference, not a fast method, also on a GPU: scores
    are computed in float64 and written to memory, in blocks of rows. The selection has no gradient.

    Costs: n tokens, d = head_dim, k = top_k.
    """

    top_k: int = hyperparameter(
        64,
        minimum=1,
        doc="number of keys with the highest scores that a query sees",
        small=2,
        train=4,
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        if self.top_k >= key.shape[2]:
            return fused_sdpa.attend(query, key, value, call)
        return row_blocks.attend(
            partial(_attend, count=self.top_k, scale=call.scale),
            query,
            key,
            value,
            call=call,
        )

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        allowed = visible(rows, query_len, key_len, call)
        with torch.no_grad():
            keys = expand_heads(key, query.shape[1])
            order = _order(query[:, :, rows], keys, call.scale)
            order = order.masked_fill(~allowed, -torch.inf)
            lowest = order.topk(min(self.top_k, key_len)).values[..., -1:]
        kept = allowed & (order >= lowest)
        return masked_softmax(dot_products(query, key, rows, call.scale), kept)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        """Count the scores of all visible keys, and the weighted sums over the kept values."""
        seen = torch.full((query_len,), key_len, dtype=torch.float64, device="cpu")
        if causal:
            positions = torch.arange(query_len, device="cpu") + key_len - query_len
            seen = (positions + 1).clamp(min=0).double()
        pairs = float(seen.sum() + seen.clamp(max=self.top_k).sum())
        return 2.0 * batch * heads * head_dim * pairs


def _order(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Return the scores that select keys, float32 (..., rows, keys), from queries (..., rows,
    head_dim) and keys (..., keys, head_dim).

    Inputs are rounded to float32 and their products are summed in float64, so that the selection
    does not depend on the dtype or on the size of a block. The order of the scores depends only on
    the sign of the scale.
    """
    sign = (scale > 0) - (scale < 0)
    return ((query.float().double() * sign) @ key.float().double().mT).float()


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, allowed: Tensor, count: int, scale: float
) -> Tensor:
    """Compute one block for `row_blocks.attend`."""
    key, value = (expand_heads(x, query.shape[1]) for x in (key, value))
    with torch.no_grad():
        order = _order(query, key, scale).masked_fill_(~allowed, -torch.inf)
        highest = order.topk(min(count, key.shape[2]), sorted=False).values
        # If a row sees fewer keys, its lowest score is -inf.
        lowest = highest.amin(-1, keepdim=True).clamp_(min=torch.finfo(order.dtype).min)
        dropped = order < lowest
        empty = highest.amax(-1, keepdim=True) == -torch.inf
    scores = ((query * scale) @ key.mT).masked_fill_(dropped, torch.finfo(query.dtype).min)
    return (scores.softmax(-1) @ value).masked_fill(empty, 0)
