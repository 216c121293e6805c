"""Sliding-window attention: a query sees the keys at most `window_size` positions away.

Differs from public code: libraries count a window in different ways. With `window_size=8` and a
causal call, a query here sees 9 keys, at distances 0 to 8. It also sees 9 keys in flash-attn with
`window_size=(8, 0)` and in attention-gym. A query sees 8 keys in transformers (`sliding_window=8`)
and in fla (`window_size=8`). Longformer's `attention_window` counts both sides: 16 there is a
`window_size` of 8 here. In local-attention, a query sees up to twice the window, unless
`exact_windowsize=True`.
"""

from __future__ import annotations

from dataclasses import dataclass

from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.pattern import Pattern
from variants.contract.registry import register
from variants.masked.masked_attention import MaskedAttention


@register(
    title="Longformer: The Long-Document Transformer (its window alone)",
    year=2020,
    url="https://arxiv.org/abs/2004.05150",
    time="n·w·d",
    memory="n·d",
    target="masked_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "distance_bias", "step"},
    implementations=("blocks", "coarse", "triton", "flash", "flex", "xformers"),
    reduced_precision={"coarse"},
    libraries={"flash", "flex", "xformers"},
    exact_when={"window_size": 1 << 40},
    grid={"window_size": (64, 128, 256, 512)},
    positions="distance",
)
@dataclass(frozen=True)
class SlidingWindowAttention(MaskedAttention):
    """Softmax attention over the keys inside a window on both sides of the query.

        weights[i] = softmax over j of scale · query[i] · key[j],  where |i - j| <= window_size

    i is the position of the query, j the position of the key. A causal call also needs j <= i.

    Costs: n tokens, d = head_dim, w = window_size.

    Decoding: the state holds the keys and values of the last `window_size` tokens.
    """

    window_size: int = hyperparameter(
        256,
        minimum=0,
        doc="a query sees keys at most this many positions away",
        small=5,
        train=TimesLength(3 / 8),
    )

    def pattern(self, heads: int, query_len: int, key_len: int, causal: bool) -> Pattern:
        return Pattern(query_len, key_len, causal, window=self.window_size)
