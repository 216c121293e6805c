"""linear-attention-transformer's functions for `linear`: another operator with the same cost.

The causal form is called with blocks of 64; with the default, blocks of 1, it builds a matrix for
each key.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.peers.packages import needs, require_multiple
from variants import add_implementation
from variants.contract.definitions import expand_heads
from variants.linear import LinearAttention

MODULE = "linear_attention_transformer.linear_attention_transformer"
BLOCK = 64


def attend(
    attention: LinearAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    **call: Any,
) -> Tensor:
    from linear_attention_transformer import linear_attention_transformer as package

    heads, seq_len = query.shape[1:3]
    key, value = expand_heads(key, heads), expand_heads(value, heads)
    if causal:
        require_multiple("linear-attention-transformer", seq_len, BLOCK)
        return package.causal_linear_attn(query, key, value, bucket_size=BLOCK)
    return package.linear_attn(query, key, value)


add_implementation(
    "linear",
    "linear_attention_transformer",
    attend=attend,
    unavailable=needs(MODULE),
    supports={"causal", "backward"},
    differs="features are softmaxes: of queries over channels, of keys over positions; with a "
    f"causal mask, a query sees only earlier blocks of {BLOCK}",
)
