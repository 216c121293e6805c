"""Position encodings that add to the scores what depends on the distance alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from variants.layer.position_encoding import Position, check_counts


class RelativeBias(Position):
    """A learned bias for each head and bucket of distances, exact nearby and ever coarser further
    away ("Exploring the Limits of Transfer Learning", Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683; the idea is Shaw et al. 2018,
    https://arxiv.org/abs/1803.02155).

    Half of the buckets hold one distance each, the others the rest up to `max_distance` in
    logarithmic steps; the last one also what is beyond. If `bidirectional`, later keys have half of
    all buckets for themselves; otherwise they share the bucket of distance 0, and a causal layer
    has all buckets for what it sees. `weight` (num_buckets, num_heads) begins with a standard
    deviation of 0.02.
    """

    takes = "num_heads"

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts(num_heads=num_heads, num_buckets=num_buckets, max_distance=max_distance)
        self.size, self.num_buckets = num_heads, num_buckets
        self.max_distance, self.bidirectional = max_distance, bidirectional
        step = 4 if bidirectional else 2
        if num_buckets < step or num_buckets % step or max_distance <= self._exact:
            raise ValueError(
                f"num_buckets must be a multiple of {step} if bidirectional is {bidirectional}, "
                f"and max_distance greater than a {step}th of it; got num_buckets={num_buckets}, "
                f"max_distance={max_distance}"
            )
        shape = num_buckets, num_heads
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, query_len: int, key_len: int) -> Tensor:
        """(num_heads, query_len + key_len - 1) as `distance_bias` of `Attention`, in the dtype of
        `weight`."""
        return self.weight[self.buckets(_distances(query_len, key_len, self.weight.device))].T

    def buckets(self, distance: Tensor) -> Tensor:
        """The bucket of each distance, key position minus query position; int64."""
        # Distances are turned round, so that earlier keys are at positive ones.
        side = self.num_buckets // 2 if self.bidirectional else 0
        back = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        coarse = (self.num_buckets - side) - self._exact
        growth = math.log(self.max_distance / self._exact) / coarse
        steps = (back.clamp(min=self._exact).double() / self._exact).log() / growth
        # Powers belong to the bucket they begin; a rounding error must not move them.
        far = self._exact + (steps + 1e-9).long().clamp(max=coarse - 1)
        return torch.where(back < self._exact, back, far) + side * (distance > 0)

    def distance_bias(
        self, query_len: int, key_len: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        return self(query_len, key_len)

    @property
    def _exact(self) -> int:
        """Distances that have a bucket of their own, on each side."""
        return self.num_buckets // (4 if self.bidirectional else 2)

    def extra_repr(self) -> str:
        return (
            f"{self.size}, num_buckets={self.num_buckets}, max_distance={self.max_distance}, "
            f"bidirectional={self.bidirectional}"
        )


class Alibi(Position):
    """Minus a slope for each head times the distance, learning nothing ("Train Short, Test Long",
    Press et al. 2021, https://arxiv.org/abs/2108.12409).

    The slopes of n heads are 2^(-8/n), 2^(-16/n), ... 2^-8 where n is a power of two; otherwise
    those of the largest power of two below n, then every other one of twice that power. Later keys,
    where a call is not causal, have the bias of earlier ones.
    """

    takes = "num_heads"

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        check_counts(num_heads=num_heads)
        self.size = num_heads

    @property
    def slopes(self) -> list[float]:
        """One number for each head."""
        power = 1 << (self.size.bit_length() - 1)
        own = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
        between = [2.0 ** (-4 * (head + 1) / power) for head in range(0, 2 * power, 2)]
        return own + between[: self.size - power]

    def forward(
        self,
        query_len: int,
        key_len: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """(num_heads, query_len + key_len - 1) as `distance_bias` of `Attention`."""
        slopes = torch.tensor(self.slopes, dtype=dtype, device=device)
        return -slopes[:, None] * _distances(query_len, key_len, device).abs()

    distance_bias = forward

    def extra_repr(self) -> str:
        return str(self.size)


def _distances(query_len: int, key_len: int, device: torch.device | None) -> Tensor:
    """Key position minus query position, from the last query and first key on."""
    return torch.arange(1 - key_len, query_len, device=device)
