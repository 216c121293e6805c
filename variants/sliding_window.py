"""Sliding-window attention: a query sees the keys at most `window_size` positions away."""

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
    implementations=("blocks", "coarse", "flex", "xformers"),
    reduced_precision={"coarse"},
    libraries={"flex", "xformers"},
    exact_when={"window_size": 1 << 40},
    grid={"window_size": (64, 128, 256, 512)},
    positions="distance",
)
@dataclass(frozen=True)
class SlidingWindowAttention(MaskedAttention):
    window_size: int = hyperparameter(
        256,
        minimum=0,
        doc="a query sees keys at most this many positions away",
        small=5,
        train=TimesLength(3 / 8),
    )

    def pattern(self, heads: int, query_len: int, key_len: int, causal: bool) -> Pattern:
        return Pattern(query_len, key_len, causal, window=self.window_size)
