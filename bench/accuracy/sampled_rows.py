"""Which query rows errors are taken on, and what the whole is likely to be, judged by them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor

LEAST_ROWS = 128
PAIRS = 1 << 23  # as many rows are taken as have so many scores, all heads together
PER_STRATUM = 2  # at least two, or nothing would be known of the spread within a stratum
LEAST_FREEDOM = 3.0  # degrees of freedom of an interval, however few strata its spread comes from


@dataclass(frozen=True)
class Sample:
    """Rows of a stratified sample, in order.

    `weights` say for how many rows each stands; `strata` number the stretch each was drawn from.
    Where `whole`, the rows of a stratum stand for those of that stretch and no others.
    """

    rows: Tensor  # int64 (rows,)
    weights: Tensor  # float64 (rows,)
    strata: Tensor  # int64 (rows,)
    whole: bool = True

    def to(self, device: torch.device) -> Sample:
        """The same on a device."""
        rows, weights, strata = (x.to(device) for x in (self.rows, self.weights, self.strata))
        return Sample(rows, weights, strata, self.whole)


def sample_rows(
    query_len: int, key_len: int, *, causal: bool, heads: int = 1, seed: int = 0
) -> Sample:
    """Two random rows of each of many stretches of the sequence; all rows if these are not more.

    Rows are at least 128, and more where that is cheap: of `heads` heads (of all sequences) that
    have no more than 2^23 scores. Stretches are of equal length; of causal rows half of them crowd
    towards the first ones, by the logarithm of the number of keys seen: rows that see few keys have
    large outputs, and on noise the first one in a hundred holds half of all that an error is
    relative to.
    """
    count = max(LEAST_ROWS, PAIRS // (heads * key_len))
    if query_len <= count:
        every = torch.arange(query_len)
        return Sample(every, torch.ones(query_len, dtype=torch.float64), every)
    generator = torch.Generator().manual_seed(seed)
    edges = _edges(query_len, key_len, causal, count // PER_STRATUM)
    rows, weights, strata = [], [], []
    for number, (first, end) in enumerate(pairwise(edges)):
        length = end - first
        count = min(PER_STRATUM, length)
        rows.append(first + _distinct(length, count, generator))
        weights.append(torch.full((count,), length / count, dtype=torch.float64))
        strata.append(torch.full((count,), number))
    return Sample(torch.cat(rows), torch.cat(weights), torch.cat(strata))


def last_rows(rows: Tensor) -> Sample:
    """Given rows of equal weight, which stand for others like them."""
    one = torch.zeros_like(rows)
    return Sample(rows, torch.ones_like(rows, dtype=torch.float64), one, whole=False)


def mean(values: Tensor, sample: Sample, counted: Tensor | None = None) -> Tensor:
    """Mean over the last dimension, the rows; of those that are `counted`, where it is given."""
    weights = sample.weights.expand_as(values)
    if counted is not None:
        weights = weights.masked_fill(~counted, 0)
        values = values.masked_fill(~counted, 0)
    return (values * weights).sum(-1) / weights.sum(-1).clamp(min=1e-300)


def median(values: Tensor, sample: Sample) -> float:
    """Median over all elements, whose last dimension are the rows."""
    ordered, order = values.flatten().sort()
    weights = sample.weights.expand_as(values).flatten()[order].cumsum(0)
    return float(ordered[torch.searchsorted(weights, weights[-1:] / 2)])


def relative_error(wrong: Tensor, size: Tensor, sample: Sample) -> tuple[float, float, float]:
    """The relative L2 error of all rows, estimated from some, with a 95 % interval.

    Args:
        wrong, size: squared error and squared norm of each row, float64 (rows,).

    The variance of the ratio of both sums is taken to first order, stratum by stratum, and less
    where a stratum was taken nearly whole; the interval is symmetric in the logarithm, and as wide
    as Student's t is for the strata that matter. Rows of very different error make it wide; of an
    error that stands in so few rows that the sample may hold none of them it can know nothing.
    """
    total = float((sample.weights * size).sum())
    amount = float((sample.weights * wrong).sum())
    if total == 0:  # the exact answer is 0 on all rows
        error = 0.0 if amount == 0 else math.inf
        return error, error, error
    error = math.sqrt(amount / total)
    if amount == 0 or not math.isfinite(amount):
        return error, error, error
    off = sample.weights * (wrong - amount / total * size) / amount
    count = torch.bincount(sample.strata).double()
    centre = _per_stratum(off, sample) / count
    spread = _per_stratum((off - centre[sample.strata]).square(), sample)
    known = count > 1
    variance = (spread * count / (count - 1).clamp(min=1))[known]
    if sample.whole:  # the part of a stratum that was taken is not in doubt
        share = count / _per_stratum(sample.weights, sample)
        variance = variance * (1 - share[known]).clamp(min=0)
    deviation = math.sqrt(float(variance.sum()))
    if deviation == 0:
        return error, error, error
    freedom = float(variance.sum().square() / (variance.square() / (count - 1)[known]).sum())
    # Of the logarithm of the error, which is half that of its square.
    reach = math.exp(0.5 * _t_quantile(max(freedom, LEAST_FREEDOM)) * deviation)
    return error, error / reach, error * reach


def _per_stratum(values: Tensor, sample: Sample) -> Tensor:
    return torch.bincount(sample.strata, values)


def _edges(query_len: int, key_len: int, causal: bool, strata: int) -> list[int]:
    """Ends of the stretches, as row numbers from 0 to query_len."""
    rows = torch.arange(query_len + 1, dtype=torch.float64)
    crowd = rows / query_len
    if causal:
        seen = (rows + key_len - query_len).clamp(min=0)
        logs = (1 + seen).log()
        crowd = (crowd + (logs - logs[0]) / (logs[-1] - logs[0])) / 2
    levels = torch.linspace(0, 1, strata + 1, dtype=torch.float64)
    return torch.searchsorted(crowd, levels).clamp(max=query_len).unique().tolist()


def _distinct(length: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different numbers below `length`, in order."""
    if length <= 1 << 10:
        return torch.randperm(length, generator=generator)[:count].sort().values
    while True:  # long stretches hardly ever give the same number twice
        drawn = torch.randint(length, (count,), generator=generator).unique()
        if len(drawn) == count:
            return drawn


def _t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, by its expansion about the normal one: within 1 % from
    three degrees of freedom up."""
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
