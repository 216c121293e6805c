"""transformers' LongformerSelfAttention for `longformer`, and for `sliding_window` without global
tokens.

The projections are replaced by functions that return views (seq_len, batch, heads, head_dim) of the
given tensors. The query is copied, as the module divides it in place. The projections for global
tokens return the same query, key and value.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.peers.packages import needs, require_multiple
from variants import UnsupportedError, add_implementation
from variants.contract.definitions import expand_heads
from variants.longformer import LongformerAttention
from variants.sliding_window import SlidingWindowAttention

MODULE = "transformers.models.longformer.modeling_longformer"
GLOBAL = 10000.0  # marks a global token in the mask of the module, as LongformerModel does


def attend(
    attention: LongformerAttention | SlidingWindowAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    **call: Any,
) -> Tensor:
    window_size = attention.window_size
    if window_size == 0:
        raise UnsupportedError("transformers' Longformer needs a window_size of at least 1")
    batch, heads, seq_len, head_dim = query.shape
    require_multiple("transformers' Longformer", seq_len, 2 * window_size)
    num_global = min(getattr(attention, "num_global_tokens", 0), seq_len)
    mask, is_global, is_masked = _masks(batch, seq_len, num_global, query.dtype, query.device)

    # The module divides its query by sqrt(head_dim), in place.
    own = (query * (scale * math.sqrt(head_dim))).permute(2, 0, 1, 3)
    global_rows = own[:num_global].clone()
    keys, values = (expand_heads(x, heads).permute(2, 0, 1, 3) for x in (key, value))
    module = copy.copy(_module(heads, head_dim, window_size))
    module.query, module.query_global = (lambda _: own), (lambda _: global_rows)
    module.key = module.key_global = lambda _: keys
    module.value = module.value_global = lambda _: values
    hidden = query.new_zeros(1).expand(batch, seq_len, heads * head_dim)  # only its shape is used
    out = module(
        hidden,
        attention_mask=mask,
        is_index_masked=is_masked,
        is_index_global_attn=is_global,
        is_global_attn=num_global > 0,
    )[0]
    return out.unflatten(2, (heads, head_dim)).transpose(1, 2)


@lru_cache(maxsize=4)
def _module(heads: int, head_dim: int, window_size: int) -> Any:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    config = LongformerConfig(
        hidden_size=heads * head_dim, num_attention_heads=heads, attention_window=[2 * window_size]
    )
    with torch.device("meta"):  # the weights are not used
        module = LongformerSelfAttention(config, 0).eval()
    for name in ("query", "key", "value", "query_global", "key_global", "value_global"):
        delattr(module, name)
    return module


@lru_cache(maxsize=4)
def _masks(
    batch: int, seq_len: int, num_global: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The masks of the module, (batch, seq_len): scores, global tokens, padding."""
    with torch.inference_mode(False):
        is_global = (torch.arange(seq_len, device=device) < num_global).expand(batch, -1)
        scores = is_global.to(dtype) * GLOBAL
        return scores, is_global, torch.zeros_like(is_global)


for _variant in ("longformer", "sliding_window"):
    add_implementation(
        _variant,
        "transformers",
        attend=attend,
        unavailable=needs(MODULE),
        supports={"backward"},
    )
