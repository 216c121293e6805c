"""transformers' LSHSelfAttention (Reformer) for `lsh` with one tensor for queries and keys.

The projections are replaced by functions that return the given tensors, which are already split
into heads. The module chooses the number of buckets. It draws its rotations in every call; the seed
is that of the variant. It does not divide scores by sqrt(head_dim), so the query is multiplied by
the scale.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.peers.packages import drawing, needs, require_multiple
from variants import UnsupportedError, add_implementation
from variants.contract.definitions import expand_heads
from variants.lsh import LshAttention

MODULE = "transformers.models.reformer.modeling_reformer"


def attend(
    attention: LshAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    **call: Any,
) -> Tensor:
    if not attention.shared_qk:
        raise UnsupportedError(
            "transformers' Reformer uses one tensor as query and key: set shared_qk=True"
        )
    batch, heads, seq_len, head_dim = query.shape
    require_multiple("transformers' Reformer", seq_len, attention.bucket_size)
    run = copy.copy(
        _module(
            heads,
            head_dim,
            seq_len,
            attention.bucket_size,
            attention.num_hashes,
            causal,
            query.device,
        )
    )
    scaled, values = query * scale, expand_heads(value, heads)
    run.query_key, run.value = (lambda _: scaled), (lambda _: values)
    run._split_hidden_size_dim = lambda x, *_: x
    hidden = query.new_zeros(1).expand(batch, seq_len, heads * head_dim)  # only its shape is used
    with drawing(attention.seed, query.device):
        out = run(hidden).hidden_states
    return out.unflatten(2, (heads, head_dim)).transpose(1, 2)


@lru_cache(maxsize=4)
def _module(
    heads: int,
    head_dim: int,
    seq_len: int,
    bucket_size: int,
    num_hashes: int,
    causal: bool,
    device: torch.device,
) -> Any:
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    config = ReformerConfig(
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        attention_head_size=head_dim,
        lsh_attn_chunk_length=bucket_size,
        lsh_num_chunks_before=1,
        lsh_num_chunks_after=0,
        num_hashes=num_hashes,
        num_buckets=None,
        max_position_embeddings=seq_len,
        lsh_attention_probs_dropout_prob=0.0,
        is_decoder=causal,
        hash_seed=None,
    )
    with drawing(0, torch.device("cpu")):
        module = LSHSelfAttention(config).to(device).eval()
    del module.query_key, module.value
    if seq_len > bucket_size:
        module._set_num_buckets(seq_len)
    return module


add_implementation(
    "lsh",
    "transformers",
    attend=attend,
    unavailable=needs(MODULE),
    supports={"causal", "backward"},
    differs="draws its own rotations into twice as many buckets; chunks may cross bucket borders, "
    "and the first chunk also sees the last one",
)
