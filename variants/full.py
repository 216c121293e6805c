"""Full softmax attention: a query sees every key."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from variants.contract.attention import Attention, Parameters, UnsupportedError
from variants.contract.dense import expand_heads, softmax_weights
from variants.contract.registry import register
from variants.engines import blocks, dense


@register(
    title="Attention Is All You Need",
    year=2017,
    url="https://arxiv.org/abs/1706.03762",
    time="n²·d",
    memory="n·d",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("onednn", "sdpa", "plain", "coarse", "xformers"),
    exact_when={},
    grid={"implementation": ("onednn", "sdpa", "plain", "xformers")},
)
@dataclass(frozen=True)
class FullAttention(Attention):
    """Exact, by torch's fused kernel as it comes (`sdpa`), or widened to float32 and with its
    products on the CPU's fast route (`onednn`); by two matrix products around a softmax over a
    block of query rows (`plain`), with bfloat16 scores (`coarse`); or by xFormers'
    memory-efficient kernel (`xformers`)."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
    ) -> Tensor:
        implementation = self.choose_implementation(query, key)
        if implementation == "xformers":
            return _xformers(query, key, value, causal, key_padding_mask, scale)
        if implementation in ("plain", "coarse"):
            return blocks.full(
                query,
                key,
                value,
                causal=causal,
                key_padding_mask=key_padding_mask,
                scale=scale,
                coarse=implementation == "coarse",
            )
        return dense.attend(
            query,
            key,
            value,
            causal=causal,
            key_padding_mask=key_padding_mask,
            scale=scale,
            fast=implementation == "onednn",
        )

    def dense_weights(
        self, query: Tensor, key: Tensor, rows: Tensor, *, parameters: Parameters, **call: Any
    ) -> Tensor:
        return softmax_weights(query, key, rows, **call)

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float:
        if not causal:
            return float(query_len * key_len)
        # Row i sees i + 1 + key_len - query_len keys, none if that is negative.
        rows = min(query_len, key_len)
        return rows * (key_len - rows) + rows * (rows + 1) / 2

    def choose_implementation(self, query: Tensor, key: Tensor) -> str:
        if self.implementation == "auto" and query.device.type == "cuda":
            return "sdpa"
        return super().choose_implementation(query, key)

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        if implementation == "onednn" and device.type == "cuda":
            return "it is a route of the CPU"
        if implementation != "xformers":
            return None
        if device.type != "cuda":
            return "xFormers has no operators for a CPU"
        return _xformers_missing()


@cache
def _xformers_missing() -> str | None:
    """Why xFormers' kernels cannot be called; its import warning is said here instead."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from xformers.ops import fmha
    except ImportError as error:
        return f"xFormers cannot be imported ({error})"
    probe = torch.empty(1, 1, 1, 64, device="cuda", dtype=torch.float16)
    try:
        fmha.memory_efficient_attention_forward(probe, probe, probe)
    except (NotImplementedError, RuntimeError) as error:
        return f"xFormers finds no operator: {' '.join(str(error).split())[:300]}"
    return None


def _xformers(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    key_padding_mask: Tensor | None,
    scale: float,
) -> Tensor:
    if key_padding_mask is not None:
        raise UnsupportedError("full: implementation 'xformers' takes no key_padding_mask")
    if causal and query.shape[2] > key.shape[2]:
        raise UnsupportedError(
            "full: implementation 'xformers' needs key_len >= query_len if causal"
        )
    from xformers.ops import fmha

    heads = query.shape[1]
    query, key, value = (
        x.transpose(1, 2) for x in (query, expand_heads(key, heads), expand_heads(value, heads))
    )
    bias = fmha.attn_bias.LowerTriangularFromBottomRightMask() if causal else None
    try:
        out = fmha.memory_efficient_attention(query, key, value, attn_bias=bias, scale=scale)
    except NotImplementedError as error:
        raise UnsupportedError(
            f"full: xFormers finds no operator for {query.dtype} and head_dim {query.shape[-1]}"
            f": {' '.join(str(error).split())[:300]}"
        ) from error
    return out.transpose(1, 2)
