"""Nyström attention: a query sees all keys through landmarks, the means of consecutive tokens.

Differs from public code: the authors' code and transformers add a convolution of the values, which
is a part of a model. They need sequence lengths that are multiples of the number of landmarks. The
package nystrom-attention starts the iteration with a number that depends on the whole batch; here
each head has its own number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import (
    compute_dtype,
    dot_products,
    expand_heads,
    masked_softmax,
    softmax_weights,
)
from variants.contract.device import on_gpu
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.engines.gpu import landmark_inverse
from variants.engines.libraries import fused_sdpa
from variants.engines.tiled import tile_loop


@register(
    title="Nyströmformer: A Nyström-Based Algorithm for Approximating Self-Attention",
    year=2021,
    url="https://arxiv.org/abs/2102.03902",
    time="n·m·d",
    memory="n·d",
    target="softmax",
    supports={"key_padding_mask", "cross_attention", "backward"},
    implementations=("products", "triton"),
    exact_when={"num_landmarks": 1 << 40},
    grid={"num_landmarks": (32, 64, 128, 256)},
    convex=False,
)
@dataclass(frozen=True)
class NystromAttention(Attention):
    """Softmax attention approximated by three smaller softmax matrices.

        Q', K' = means of queries and keys over num_landmarks segments of consecutive tokens
        F = softmax(scale · query K'ᵀ),  A = softmax(scale · Q' K'ᵀ),  B = softmax(scale · Q' keyᵀ)
        weights = F A⁺ B

    A⁺ approximates the pseudo-inverse of A by `num_iterations` steps of the paper's iteration.
    Weights may be negative. If A is ill-conditioned, rows may not sum to 1. Segment sizes differ by
    at most one token. Means leave padding out. With at most `num_landmarks` queries and keys, the
    result is exact softmax attention. There is no causal form, because landmarks contain later
    tokens.

    Costs: n tokens, d = head_dim, m = num_landmarks.
    """

    num_landmarks: int = hyperparameter(
        64,
        minimum=1,
        doc="number of landmarks; each is the mean of a segment of tokens",
        small=8,
        train=TimesLength(1 / 2),
    )
    num_iterations: int = hyperparameter(
        6, minimum=1, doc="number of steps of the iteration that approximates the pseudo-inverse"
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        if self._is_exact(query, key):
            return fused_sdpa.attend(query, key, value, call)
        if self.choose_implementation(query, key) == "triton":
            return self._attend_on_gpu(query, key, value, call)
        queries, keys, shown = self._landmarks(query, key, call.key_padding_mask)
        hidden = None if call.key_padding_mask is None else ~shown
        dtype, wide = query.dtype, queries.dtype
        on_cpu = not on_gpu(query.device)
        # On a CPU, tiles are faster for few queries. They convert half-precision inputs to float32
        # one tile at a time.
        attend_keys: Callable[..., Tensor] = tile_loop.full if on_cpu else fused_sdpa.attend
        widened = on_cpu and dtype is not wide
        attend_landmarks: Callable[..., Tensor] = tile_loop.full if widened else fused_sdpa.attend
        if not widened:
            query, key, value = (x.to(wide) for x in (query, key, value))
        means = attend_keys(queries, key, value, call)
        spread = self._inverse(queries, keys, shown, call.scale) @ means.double()
        keys = expand_heads(keys, query.shape[1])
        hidden_landmarks = call.masked(hidden, None)
        return attend_landmarks(query, keys, spread.to(wide), hidden_landmarks).to(dtype)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        if self._is_exact(query, key):
            return softmax_weights(query, key, rows, call)
        queries, keys, shown = self._landmarks(query, key, call.key_padding_mask)
        allowed = shown[:, None, None, :]
        to_landmarks = masked_softmax(dot_products(query, keys, rows, call.scale), allowed)
        from_landmarks = softmax_weights(
            queries,
            key.to(queries.dtype),
            torch.arange(queries.shape[2], device=rows.device),
            call,
        )
        inverse = self._inverse(queries, keys, shown, call.scale).to(queries.dtype)
        return to_landmarks @ inverse @ from_landmarks

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        if max(query_len, key_len) <= self.num_landmarks:
            return 4.0 * batch * heads * head_dim * query_len * key_len
        rows, columns = (min(self.num_landmarks, length) for length in (query_len, key_len))
        products = query_len * columns + rows * key_len  # F and B
        # Each step has four products: one with A and one with Z, of rows² · columns each, and two
        # of rows³ between them.
        steps = self.num_iterations * (rows**2 * columns * 2 + rows**3 * 2)
        return batch * heads * (4.0 * head_dim * products + 2.0 * steps)

    def triton_takes(self, query: Tensor) -> bool:
        half = query.dtype in (torch.float16, torch.bfloat16)
        return half and landmark_inverse.fits(self.num_landmarks, query.shape[-1])

    def _attend_on_gpu(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """`attend` for half types: the inverse in float32 by one kernel, and few products. The
        error of an inverse in float32 is smaller than that of the rounded output."""
        padding, hidden = call.key_padding_mask, None
        if padding is None:
            queries, keys = self._means(query), self._means(key)
            nothing = torch.zeros(len(key), keys.shape[2], dtype=torch.bool, device=key.device)
        else:
            queries, keys, shown = self._landmarks(query, key, padding)
            nothing = hidden = ~shown
        inverse = landmark_inverse.inverse(
            queries.contiguous(), keys.contiguous(), nothing, call.scale, self.num_iterations
        )
        # A softmax over all keys for few rows: a fused kernel would use few programs.
        rows = (queries * call.scale).unflatten(1, (key.shape[1], -1)).flatten(2, 3)
        scores = rows @ key.float().mT
        if padding is None:
            weights = torch.softmax(scores, -1)
        else:
            weights = masked_softmax(scores, ~padding[:, None, None, :])
        means = (weights @ value.float()).unflatten(2, (-1, queries.shape[2])).flatten(1, 2)
        keys = expand_heads(keys, query.shape[1])
        out = fused_sdpa.attend(query.float(), keys, inverse @ means, call.masked(hidden, None))
        return out.to(query.dtype)

    def _means(self, tokens: Tensor) -> Tensor:
        """Return the means over each segment, (batch, heads, segments, channels) in float32."""
        parts = [part.mean(3, dtype=torch.float32) for part in self._segments(tokens)]
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0]

    def _is_exact(self, query: Tensor, key: Tensor) -> bool:
        return max(query.shape[2], key.shape[2]) <= self.num_landmarks

    def _landmarks(
        self, query: Tensor, key: Tensor, key_padding_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the landmarks of queries (batch, heads, rows, head_dim) and of keys (batch,
        kv_heads, columns, head_dim), and a bool mask (batch, columns) of the key landmarks that
        contain at least one key without padding."""
        dtype = compute_dtype(query.dtype)
        real = torch.ones(len(key), 1, key.shape[2], 1, dtype=dtype, device=key.device)
        if key_padding_mask is not None:
            real = real.masked_fill(key_padding_mask[:, None, :, None], 0)
        sizes = torch.ones(1, 1, query.shape[2], 1, dtype=dtype, device=query.device)
        queries = self._sums(query, dtype) / self._sums(sizes, dtype)
        counts = self._sums(real, dtype)
        # Padded keys are already zero.
        keys = self._sums(key, dtype) / counts.clamp(min=1)
        return queries, keys, counts[:, 0, :, 0] > 0

    def _sums(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sums over each segment of tokens, (batch, heads, segments, channels)."""
        return torch.cat([part.sum(3, dtype=dtype) for part in self._segments(tokens)], 2)

    def _segments(self, tokens: Tensor) -> list[Tensor]:
        """Return the segments of each size, (batch, heads, segments, size, channels)."""
        length = tokens.shape[2]
        segments = min(self.num_landmarks, length)
        size, longer = divmod(length, segments)
        cut = longer * (size + 1)
        parts = [tokens[:, :, cut:].unflatten(2, (segments - longer, size))]
        if longer:
            parts.insert(0, tokens[:, :, :cut].unflatten(2, (longer, size + 1)))
        return parts

    def _inverse(self, queries: Tensor, keys: Tensor, shown: Tensor, scale: float) -> Tensor:
        """Return A⁺ (batch, heads, columns, rows) in float64. The largest entries of the inverse
        multiply the rounding error of A; in float32 this would be the largest error of all."""
        rows = torch.arange(queries.shape[2], device=queries.device)
        scores = dot_products(queries.double(), keys.double(), rows, scale)
        attention = masked_softmax(scores, shown[:, None, None, :])
        # The largest sum of a column; the sum of a row is 1. It is 0 if no key is visible.
        largest = attention.sum(-2, keepdim=True).amax(-1, keepdim=True)
        inverse = attention.mT / torch.where(largest > 0, largest, 1)
        identity = torch.eye(len(rows), dtype=torch.float64, device=rows.device)
        for _ in range(self.num_iterations):
            product = attention @ inverse
            step = 15 * identity - product @ (7 * identity - product)
            inverse = inverse @ (13 * identity - product @ step) / 4
        return inverse
