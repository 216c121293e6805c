"""Linformer attention: a query sees a fixed number of random sums of keys and values.

Differs from public code: the paper and the `linformer` package train the projections E and F with
the model, for a fixed maximum length. Here E and F are drawn from `seed`, for any length, and the
column of a token does not depend on the length. So the costs are the costs of the method, but the
error is the error of random projections: projected keys grow with sqrt(key_len / projected_len).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import compute_dtype, dot_products, softmax_weights
from variants.contract.device import on_gpu
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.modes import no_autocast
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.engines.libraries import fused_sdpa

# Number of tokens in a piece. Entries are drawn piece by piece, so that a longer sequence only adds
# draws. Products are summed piece by piece, because the rounding error of one sum over all tokens
# grows with the number of tokens.
PIECE = 128


@register(
    title="Linformer: Self-Attention with Linear Complexity",
    year=2020,
    url="https://arxiv.org/abs/2006.04768",
    time="n·k·d",
    memory="n·(k + d)",
    target="softmax",
    supports={"key_padding_mask", "cross_attention", "backward"},
    implementations=("products",),
    exact_when={"projected_len": 1 << 40},
    grid={"projected_len": (64, 128, 256, 512)},
    convex=False,
)
@dataclass(frozen=True)
class LinformerAttention(Attention):
    """Softmax attention over `projected_len` random combinations of the keys and of the values.

        output[i] = softmax(scale · query[i] (E key)ᵀ) (F value)
        E, F: (projected_len, key_len), entries drawn from N(0, 1 / projected_len)

    With at most `projected_len` keys nothing is projected, and the result is exact softmax
    attention. Padding counts as zeros. All heads share E and F (the paper's "headwise sharing").
    There is no causal form, because every combination contains later tokens.

    Costs: n tokens, d = head_dim, k = projected_len.
    """

    projected_len: int = hyperparameter(
        256,
        minimum=1,
        doc="number of keys and values after the projection; at most this many are not projected",
        small=8,
        train=TimesLength(1 / 2),
    )
    seed: int = hyperparameter(0, doc="seed of the random projections")

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        if key.shape[2] <= self.projected_len:
            return fused_sdpa.attend(query, key, value, call)
        if on_gpu(key.device):
            return self._attend_on_gpu(query, key, value, call)
        for_keys, for_values = self._projections(key)
        out = fused_sdpa.attend(
            query.to(for_keys.dtype),
            _Projected.apply(key, for_keys),
            _Projected.apply(value, for_values),
            call.masked(None, None),
        )
        return out.to(query.dtype)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        if key.shape[2] <= self.projected_len:
            return softmax_weights(query, key, rows, call)
        drawn = self._projections(key).transpose(1, 2).flatten(2)  # (2, projected_len, tokens)
        for_keys, for_values = drawn[..., : key.shape[2]]
        keys = for_keys @ key.to(for_keys.dtype)
        weights = torch.softmax(dot_products(query, keys, rows, call.scale), -1) @ for_values
        if call.key_padding_mask is not None:
            weights = weights.masked_fill(call.key_padding_mask[:, None, None, :], 0)
        return weights

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        if key.shape[2] > self.projected_len:
            if on_gpu(key.device):
                self._matrices(key)
            else:
                self._projections(key)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # Scores and weighted sums of values; the projections of keys and values, if there are any.
        seen = min(key_len, self.projected_len)
        projected = key_len if key_len > self.projected_len else 0
        return 4.0 * batch * heads * head_dim * seen * (query_len + projected)

    def _attend_on_gpu(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        for_keys, for_values = self._matrices(key)
        keys = _ProjectedTogether.apply(key, for_keys, self.projected_len)
        values = _ProjectedTogether.apply(value, for_values, self.projected_len)
        # Projected keys are large, so their softmax needs the precision of float32.
        out = fused_sdpa.attend(query.to(keys.dtype), keys, values, call.masked(None, None))
        return out.to(query.dtype)

    def _matrices(self, key: Tensor) -> Tensor:
        pieces = -(-key.shape[2] // PIECE)
        drawn = _drawn_matrices(self.projected_len, pieces, self.seed, key.device, key.dtype)
        return drawn[..., : key.shape[2]]

    def _projections(self, key: Tensor) -> Tensor:
        """Return E and F for each piece of tokens, as `_draws` does, in the compute dtype."""
        pieces = -(-key.shape[2] // PIECE)
        drawn = _draws(self.projected_len, pieces, self.seed, key.device)
        return drawn.to(compute_dtype(key.dtype))


class _Projected(torch.autograd.Function):
    """Projects tokens (batch, heads, key_len, head_dim) along the sequence, with `projection`
    (pieces, projected_len, PIECE).

    The result is (batch, heads, projected_len, head_dim) in the dtype of `projection`. Heads are
    projected one by one, because one product for all heads would copy the projection for each head.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, projection: Tensor) -> Tensor:
        ctx.save_for_backward(projection)
        ctx.shape, ctx.dtype = tokens.shape, tokens.dtype
        whole, rest = divmod(tokens.shape[2], PIECE)
        out = projection.new_empty(*tokens.shape[:2], projection.shape[1], tokens.shape[3])
        with no_autocast(tokens.device):
            for batch, head in product(*map(range, tokens.shape[:2])):
                own = tokens[batch, head].to(projection.dtype)
                pieces = own[: whole * PIECE].unflatten(0, (whole, PIECE))
                torch.sum(torch.bmm(projection[:whole], pieces), 0, out=out[batch, head])
                if rest:
                    out[batch, head] += projection[whole, :, :rest] @ own[whole * PIECE :]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (projection,) = ctx.saved_tensors
        grad_tokens = projection.new_empty(ctx.shape, dtype=ctx.dtype)
        with no_autocast(projection.device):
            for batch, head in product(*map(range, ctx.shape[:2])):
                pieces = torch.matmul(projection.mT, grads[0][batch, head])
                grad_tokens[batch, head] = pieces.flatten(0, 1)[: ctx.shape[2]]
        return grad_tokens, None


class _ProjectedTogether(torch.autograd.Function):
    """As `_Projected`, for all heads in one product, with a matrix of `_drawn_matrices`. A GPU
    reads the matrix again for each head and does not copy it."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, matrix: Tensor, projected_len: int) -> Tensor:
        ctx.save_for_backward(matrix)
        ctx.projected_len, ctx.dtype = projected_len, tokens.dtype
        with no_autocast(tokens.device):
            flat = tokens.flatten(0, 1)
            left = matrix.expand(len(flat), -1, -1)
            if len(matrix) == projected_len:
                return torch.bmm(left, flat).unflatten(0, tokens.shape[:2])
            both = torch.bmm(left, flat, torch.float32)
            return both.unflatten(1, (2, -1)).sum(1).unflatten(0, tokens.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (matrix,) = ctx.saved_tensors
        with no_autocast(matrix.device):
            # The gradient is rounded, so the rest of the matrix would not make it more precise.
            own = matrix[: ctx.projected_len].mT
            flat = grads[0].to(ctx.dtype).flatten(0, 1)
            found = torch.bmm(own.expand(len(flat), -1, -1), flat)
        return found.unflatten(0, grads[0].shape[:2]), None, None


@cached
def _draws(projected_len: int, pieces: int, seed: int, device: torch.device) -> Tensor:
    """Draw E and F for each piece of tokens, (2, pieces, projected_len, PIECE); cached."""
    return _drawn(projected_len, pieces, seed).to(device)


@cached
def _drawn_matrices(
    projected_len: int, pieces: int, seed: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Draw E and F (2, rows, tokens) in `dtype`. In a half type, the rows are the rounded entries
    and then what the rounding left."""
    drawn = _drawn(projected_len, pieces, seed).to(device).transpose(1, 2).flatten(2)
    high = drawn.to(dtype)
    if dtype not in (torch.float16, torch.bfloat16):
        return high
    return torch.cat([high, (drawn - high).to(dtype)], 1)


def _drawn(projected_len: int, pieces: int, seed: int) -> Tensor:
    with lasting(seed) as generator:
        shape = (2, projected_len, PIECE)
        drawn = [
            torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(pieces)
        ]
        return torch.stack(drawn, 1) / projected_len**0.5
