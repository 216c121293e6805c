"""Position encodings that add a bias to the scores. The bias depends only on the distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from variants.layer.position_encoding import Position, check_counts


class RelativeBias(Position):
    """A learned bias for each head and bucket of distances, with wider buckets for larger distances
    ("Exploring the Limits of Transfer Learning", Raffel et al. 2020,
    https://arxiv.org/abs/1910.10683; the idea is from Shaw et al. 2018,
    https://arxiv.org/abs/1803.02155).

    Half of the buckets hold one distance each. The other buckets divide the distances up to
    `max_distance` in logarithmic steps; the last bucket also holds all larger distances. If
    `bidirectional`, later keys have half of all buckets. Otherwise later keys share the bucket of
    distance 0, and the keys that a causal layer sees have all buckets. `weight` (num_buckets,
    num_heads) is initialised with a standard deviation of 0.02.
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
                f"and max_distance must be greater than num_buckets / {step}; got "
                f"num_buckets={num_buckets}, max_distance={max_distance}"
            )
        shape = num_buckets, num_heads
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, query_len: int, key_len: int) -> Tensor:
        """Return the `distance_bias` of `Attention`, (num_heads, query_len + key_len - 1), in the
        dtype of `weight`."""
        return self.weight[self.buckets(_distances(query_len, key_len, self.weight.device))].T

    def buckets(self, distance: Tensor) -> Tensor:
        """Return the bucket, int64, of each distance (key position minus query position)."""
        # `back` is the distance without its sign; 0 for later keys if not `bidirectional`.
        side = self.num_buckets // 2 if self.bidirectional else 0
        back = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        coarse = (self.num_buckets - side) - self._exact
        growth = math.log(self.max_distance / self._exact) / coarse
        steps = (back.clamp(min=self._exact).double() / self._exact).log() / growth
        # A distance at the start of a bucket belongs to it; a rounding error must not move it.
        far = self._exact + (steps + 1e-9).long().clamp(max=coarse - 1)
        return torch.where(back < self._exact, back, far) + side * (distance > 0)

    def distance_bias(
        self, query_len: int, key_len: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        return self(query_len, key_len)

    @property
    def _exact(self) -> int:
        """The number of distances on each side that have their own bucket."""
        return self.num_buckets // (4 if self.bidirectional else 2)

    def extra_repr(self) -> str:
        return (
            f"{self.size}, num_buckets={self.num_buckets}, max_distance={self.max_distance}, "
            f"bidirectional={self.bidirectional}"
        )


class Alibi(Position):
    """A bias of minus the distance times a slope for each head; nothing is learned ("Train Short,
    Test Long", Press et al. 2021, https://arxiv.org/abs/2108.12409).

    If n is a power of two, the slopes of n heads are 2^(-8/n), 2^(-16/n), ... 2^-8. Otherwise, with
    p the largest power of two below n, the slopes are the slopes of p heads, and then every second
    slope of 2p heads. If a call is not causal, a later key has the same bias as an earlier key at
    the same distance.
    """

    takes = "num_heads"

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        check_counts(num_heads=num_heads)
        self.size = num_heads

    @property
    def slopes(self) -> list[float]:
        """The slope of each head."""
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
        """Return the `distance_bias` of `Attention`, (num_heads, query_len + key_len - 1)."""
        slopes = torch.tensor(self.slopes, dtype=dtype, device=device)
        return -slopes[:, None] * _distances(query_len, key_len, device).abs()

    distance_bias = forward

    def extra_repr(self) -> str:
        return str(self.size)


def _distances(query_len: int, key_len: int, device: torch.device | None) -> Tensor:
    """Return key position minus query position, starting at the last query and the first key."""
    return torch.arange(1 - key_len, query_len, device=device)
