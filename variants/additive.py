"""Additive attention: a query sees every key; a small network computes the scores.

Differs from public code: Keras' `AdditiveAttention` contains no projections. Here each head
projects its queries and keys before the tanh, as in the paper, which has one head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call, Parameters
from variants.contract.definitions import (
    compute_dtype,
    expand_heads,
    masked_softmax,
    visible,
    visible_pairs,
)
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.engines import row_blocks
from variants.engines.gpu import additive_softmax


@register(
    title="Neural Machine Translation by Jointly Learning to Align and Translate",
    year=2014,
    url="https://arxiv.org/abs/1409.0473",
    time="n²·a",
    memory="n·(a + d)",
    target="other_kernel",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("row_blocks", "triton"),
    positions="none",
)
@dataclass(frozen=True)
class AdditiveAttention(Attention):
    """Softmax attention in which a network with one hidden layer computes the scores.

        s[i, j] = score_vector · tanh(scale · query[i] @ query_projection + key[j] @ key_projection)
        weights[i] = softmax over j of s[i, j],  with j <= i if causal

    Each query head learns its own projections and vector, with `hidden_dim` hidden units. The
    default scale is 1, because the sum inside tanh does not grow with head_dim as a dot product
    does. The method does not approximate softmax attention, so it is not ranked by its error. It is
    a reference, not a fast method: it computes hidden_dim exponentials for every visible pair, so
    on a GPU it is slower than exact attention at every length.

    Costs: n tokens, d = head_dim, a = hidden_dim.
    """

    hidden_dim: int = hyperparameter(
        64,
        minimum=1,
        doc="number of hidden units in the score network of each head",
        small=4,
        train=TimesLength(1),
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        queries, keys, vector = self._hidden(query, key, call.scale, call.parameters)
        if self.choose_implementation(query, key) == "triton":
            units = queries.mT, keys.mT
            padding = call.key_padding_mask
            return additive_softmax.attend(*units, value, vector, padding, call.causal)
        out = row_blocks.attend(
            _attend,
            queries,
            keys,
            expand_heads(value.to(queries.dtype), query.shape[1]),
            vector,
            call=call,
            width=self.hidden_dim,
        )
        return out.to(query.dtype)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        allowed = visible(rows, query.shape[2], key.shape[2], call)
        queries, keys, vector = self._hidden(query[:, :, rows], key, call.scale, call.parameters)
        scores = queries.new_zeros(*queries.shape[:3], key.shape[2])
        for unit in range(self.hidden_dim):  # all units at once need hidden_dim times the memory
            hidden = (queries[..., unit, None] + keys[..., None, :, unit]).tanh_()
            scores = torch.addcmul(scores, vector[:, unit, None, None], hidden)
        return masked_softmax(scores, allowed)

    def default_scale(self, head_dim: int) -> float:
        return 1.0

    def init_parameters(self, heads: int, head_dim: int, seed: int = 0) -> Parameters:
        """Draw `query_projection` and `key_projection` (heads, head_dim, hidden_dim) from
        N(0, 1/head_dim), and `score_vector` (heads, hidden_dim) from N(0, 1/hidden_dim)."""
        with lasting(seed) as generator:

            def normal(*shape: int, size: int) -> Tensor:
                drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
                return drawn / math.sqrt(size)

            return {
                "query_projection": normal(heads, head_dim, self.hidden_dim, size=head_dim),
                "key_projection": normal(heads, head_dim, self.hidden_dim, size=head_dim),
                "score_vector": normal(heads, self.hidden_dim, size=self.hidden_dim),
            }

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float:
        return visible_pairs(query_len, key_len, causal=causal)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # Each pair needs 3 operations for each hidden unit (one addition, and one multiplication
        # and addition with the vector), and 2 for each channel of the value.
        pairs = self.useful_pairs(query_len, key_len, causal=causal)
        projections = 2.0 * head_dim * self.hidden_dim * (query_len + key_len)
        return batch * heads * (pairs * (3 * self.hidden_dim + 2 * head_dim) + projections)

    def _hidden(
        self, query: Tensor, key: Tensor, scale: float, parameters: Parameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the projected queries and keys (batch, heads, len, hidden_dim), and the vector."""
        dtype = compute_dtype(query.dtype)
        for_queries, for_keys, vector = (
            parameters[name].to(dtype)
            for name in ("query_projection", "key_projection", "score_vector")
        )
        keys = expand_heads(key.to(dtype), query.shape[1])
        return (query.to(dtype) * scale) @ for_queries, keys @ for_keys, vector


def _attend(
    queries: Tensor, keys: Tensor, value: Tensor, vector: Tensor, *, allowed: Tensor
) -> Tensor:
    """Compute one block for `row_blocks.attend`, from projected queries and keys.

    tanh(x) is 2σ(2x) - 1, and torch computes σ several times as fast as tanh. The -1 adds the same
    number to all scores of a row, so it does not change the softmax.
    """
    gates = ((2 * queries)[..., None] + (2 * keys).mT[:, :, None]).sigmoid_()
    scores = (2 * vector[:, None, None]) @ gates
    return masked_softmax(scores[..., 0, :], allowed) @ value
