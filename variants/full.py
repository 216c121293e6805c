"""Full softmax attention: a query sees every key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from variants.contract.attention import Attention, Parameters
from variants.contract.dense import compute_dtype, expand_heads, softmax_weights
from variants.contract.registry import register
from variants.engines import dense, sdpa, xformers


@register(
    title="Attention Is All You Need",
    year=2017,
    url="https://arxiv.org/abs/1706.03762",
    time="n²·d",
    memory="n·d",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("sdpa", "plain", *sdpa.KERNELS, "xformers"),
    exact_when={},
    grid={"implementation": ("sdpa", "plain", *sdpa.KERNELS, "xformers")},
)
@dataclass(frozen=True)
class FullAttention(Attention):
    """Exact, by torch's fused kernel (`sdpa`) or, on CUDA, one of those it chooses from (`flash`,
    `cudnn`, `efficient`), by two matrix products around a softmax over a block of query rows
    (`plain`), or by xFormers' memory-efficient kernel (`xformers`)."""

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
        call: dict[str, Any] = {
            "causal": causal,
            "key_padding_mask": key_padding_mask,
            "scale": scale,
        }
        if implementation == "xformers":
            return xformers.attend(query, key, value, **call)
        # What is chosen for speed gives way where only the masked rows of `dense` are right.
        masked = key_padding_mask is not None and self.implementation == "auto"
        if implementation in sdpa.KERNELS and not masked:
            return sdpa.attend(implementation, query, key, value, **call)
        if implementation == "plain":
            return dense.masked_rows(
                query,
                key,
                value,
                torch.arange(query.shape[2], device=query.device),
                causal=causal,
                key_padding_mask=key_padding_mask,
                scale=scale,
                softmax=_plain,
            )
        return dense.attend(
            query, key, value, causal=causal, key_padding_mask=key_padding_mask, scale=scale
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

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        if implementation == "xformers":
            return xformers.unavailable(device)
        return sdpa.unavailable(implementation, device) if implementation in sdpa.KERNELS else None

    def choose_implementation(self, query: Tensor, key: Tensor) -> str:
        chosen = super().choose_implementation(query, key)
        return chosen if self.implementation != "auto" else sdpa.fastest(query, key) or chosen


def _plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    dtype = query.dtype
    if query.device.type == "cpu":
        query, key, value = (x.to(compute_dtype(dtype)) for x in (query, key, value))
    key, value = expand_heads(key, query.shape[1]), expand_heads(value, query.shape[1])
    scores = (query * scale) @ key.transpose(-2, -1)
    if mask is not None and not bool(mask.all()):
        scores = scores.masked_fill(~mask, -torch.inf)
    return (torch.softmax(scores, dim=-1, dtype=compute_dtype(dtype)).to(value.dtype) @ value).to(
        dtype
    )
