"""Longformer attention: a query sees a window and the global tokens; global tokens see all keys.

Differs from public code: in the authors' code and in transformers, `attention_window` counts both
sides (512 there is a `window_size` of 256 here), a mask selects the global tokens of each sequence,
and global tokens have separate projections. Such projections are a part of a layer. Neither code
has a causal form.
"""

from __future__ import annotations

from dataclasses import dataclass

from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.pattern import Pattern
from variants.contract.registry import register
from variants.masked.masked_attention import MaskedAttention


@register(
    title="Longformer: The Long-Document Transformer",
    year=2020,
    url="https://arxiv.org/abs/2004.05150",
    time="n·(w + g)·d",
    memory="n·d",
    target="masked_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "distance_bias", "step"},
    implementations=("blocks", "coarse", "triton", "flex"),
    reduced_precision={"coarse"},
    libraries={"flex"},
    exact_when={"window_size": 1 << 40},
    grid={"window_size": (64, 128, 256, 512), "num_global_tokens": (64,)},
)
@dataclass(frozen=True)
class LongformerAttention(MaskedAttention):
    """Softmax attention over a window; the first `num_global_tokens` tokens are global.

        weights[i] = softmax over j of scale · query[i] · key[j],
                     where |i - j| <= window_size or j < num_global_tokens or i < num_global_tokens

    i is the position of the query, j the position of the key. A causal call also needs j <= i. A
    global key inside the window counts once.

    Costs: n tokens, d = head_dim, w = window_size, g = num_global_tokens.

    Decoding: the state holds the keys and values of the first `num_global_tokens` tokens and of the
    last `window_size` tokens.
    """

    window_size: int = hyperparameter(
        256,
        minimum=0,
        doc="a query sees keys at most this many positions away",
        small=5,
        train=TimesLength(3 / 8),
    )
    num_global_tokens: int = hyperparameter(
        64,
        minimum=0,
        doc="number of first tokens; they see every token, and every token sees them",
        small=3,
        train=TimesLength(1 / 8),
    )

    def pattern(self, heads: int, query_len: int, key_len: int, causal: bool) -> Pattern:
        return Pattern(
            query_len,
            key_len,
            causal,
            window=self.window_size,
            leading=min(self.num_global_tokens, key_len),
        )
