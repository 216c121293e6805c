"""Attention sinks: a query sees the keys within `window_size` positions and the first few keys.

Differs from public code: the authors' code (StreamingLLM) numbers positions inside its cache, so
that distances stay short. This changes position encodings, which are a part of a layer; here
positions are the positions in the sequence. The learned sink of GPT-OSS, an additional term in the
denominator, is another method.
"""

from __future__ import annotations

from dataclasses import dataclass

from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.pattern import Pattern
from variants.contract.registry import register
from variants.masked.masked_attention import MaskedAttention


@register(
    title="Efficient Streaming Language Models with Attention Sinks",
    year=2023,
    url="https://arxiv.org/abs/2309.17453",
    time="n·(w + s)·d",
    memory="n·d",
    target="masked_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "distance_bias", "step"},
    implementations=("blocks", "coarse", "triton", "flex"),
    reduced_precision={"coarse"},
    libraries={"flex"},
    exact_when={"window_size": 1 << 40},
    grid={"window_size": (64, 128, 256, 512), "num_sink_tokens": (4,)},
)
@dataclass(frozen=True)
class AttentionSinks(MaskedAttention):
    """Softmax attention over a window and over the first `num_sink_tokens` keys.

        weights[i] = softmax over j of scale · query[i] · key[j],
                     where |i - j| <= window_size or j < num_sink_tokens

    i is the position of the query, j the position of the key. A causal call also needs j <= i. The
    first tokens see no more keys than other tokens do; in `longformer` they see all keys.

    Costs: n tokens, d = head_dim, w = window_size, s = num_sink_tokens.

    Decoding: the state holds the keys and values of the first `num_sink_tokens` tokens and of the
    last `window_size` tokens.
    """

    window_size: int = hyperparameter(
        256,
        minimum=0,
        doc="a query sees keys at most this many positions away",
        small=5,
        train=TimesLength(3 / 8),
    )
    num_sink_tokens: int = hyperparameter(
        4,
        minimum=0,
        doc="number of first tokens that every query sees",
        small=3,
        train=TimesLength(1 / 8),
    )

    def pattern(self, heads: int, query_len: int, key_len: int, causal: bool) -> Pattern:
        return Pattern(
            query_len,
            key_len,
            causal,
            window=self.window_size,
            leading=min(self.num_sink_tokens, key_len),
            global_rows=False,
        )
