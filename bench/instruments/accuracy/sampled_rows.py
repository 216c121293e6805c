"""Samples the query rows on which errors are measured, and estimates the error of all rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor

LEAST_ROWS = 128
PAIRS = 1 << 23  # scores of the sampled rows, all heads together; this gives the number of rows
PER_STRATUM = 2  # rows; at least two, as the variance within a stratum needs two
LEAST_FREEDOM = 3.0  # lower bound of the degrees of freedom of an interval


@dataclass(frozen=True)
class Sample:
    """Rows of a stratified sample, in order.

    `weights` are the numbers of rows that each sampled row represents. `strata` are the indices of
    the stretches that they were drawn from. `whole` states whether the rows of a stratum represent
    only the rows of that stretch, so that a stratum with all its rows has no sampling error.
    """

    rows: Tensor  # int64 (rows,)
    weights: Tensor  # float64 (rows,)
    strata: Tensor  # int64 (rows,)
    whole: bool = True

    def to(self, device: torch.device) -> Sample:
        """The same sample on a device."""
        rows, weights, strata = (x.to(device) for x in (self.rows, self.weights, self.strata))
        return Sample(rows, weights, strata, self.whole)


def sample_rows(
    query_len: int, key_len: int, *, causal: bool, heads: int = 1, seed: int = 0
) -> Sample:
    """Draw two random rows from each of many stretches of the sequence; all rows of a short one.

    The sample has at least 128 rows, and more as long as it has at most 2^23 scores in all `heads`
    heads (of all sequences). Without a causal mask, the stretches have equal lengths. With a causal
    mask, their density is the mean of a uniform one and one that is uniform in the logarithm of the
    number of visible keys. The first rows are sampled more densely because rows with few visible
    keys have large outputs: on noise, the first 1 % of the rows has half of the squared norm to
    which an error is relative.
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
    """A sample of the given rows with equal weights, which represents other rows like them."""
    one = torch.zeros_like(rows)
    return Sample(rows, torch.ones_like(rows, dtype=torch.float64), one, whole=False)


def mean(values: Tensor, sample: Sample, counted: Tensor | None = None) -> Tensor:
    """Weighted mean over the last dimension, the rows; only over the `counted` rows, if given."""
    weights = sample.weights.expand_as(values)
    if counted is not None:
        weights = weights.masked_fill(~counted, 0)
        values = values.masked_fill(~counted, 0)
    return (values * weights).sum(-1) / weights.sum(-1).clamp(min=1e-300)


def median(values: Tensor, sample: Sample) -> float:
    """Weighted median over all elements; the last dimension are the rows."""
    ordered, order = values.flatten().sort()
    weights = sample.weights.expand_as(values).flatten()[order].cumsum(0)
    return float(ordered[torch.searchsorted(weights, weights[-1:] / 2)])


def relative_error(wrong: Tensor, size: Tensor, sample: Sample) -> tuple[float, float, float]:
    """The relative L2 error of all rows, estimated from a sample, with a 95 % interval.

    Args:
        wrong, size: squared error and squared norm of each row, float64 (rows,).
        sample: the sampled rows.

    The variance of the ratio of both sums is computed to first order in each stratum, with a finite
    population correction. The interval is symmetric in the logarithm of the error. Its width is a
    quantile of Student's t, with degrees of freedom from the strata that contribute to the
    variance. Rows with very different errors make it wide. If an error is in so few rows that the
    sample may contain none of them, the interval does not account for it.
    """
    total = float((sample.weights * size).sum())
    amount = float((sample.weights * wrong).sum())
    if total == 0:  # the exact output is 0 on all rows
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
    if sample.whole:  # finite population correction
        share = count / _per_stratum(sample.weights, sample)
        variance = variance * (1 - share[known]).clamp(min=0)
    deviation = math.sqrt(float(variance.sum()))
    if deviation == 0:
        return error, error, error
    freedom = float(variance.sum().square() / (variance.square() / (count - 1)[known]).sum())
    # The logarithm of the error is half the logarithm of its square.
    reach = math.exp(0.5 * _t_quantile(max(freedom, LEAST_FREEDOM)) * deviation)
    return error, error / reach, error * reach


def _per_stratum(values: Tensor, sample: Sample) -> Tensor:
    return torch.bincount(sample.strata, values)


def _edges(query_len: int, key_len: int, causal: bool, strata: int) -> list[int]:
    """Bounds of the stretches, as row indices from 0 to query_len."""
    rows = torch.arange(query_len + 1, dtype=torch.float64)
    crowd = rows / query_len
    if causal:
        seen = (rows + key_len - query_len).clamp(min=0)
        logs = (1 + seen).log()
        crowd = (crowd + (logs - logs[0]) / (logs[-1] - logs[0])) / 2
    levels = torch.linspace(0, 1, strata + 1, dtype=torch.float64)
    return torch.searchsorted(crowd, levels).clamp(max=query_len).unique().tolist()


def _distinct(length: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` different numbers below `length`, in ascending order."""
    if length <= 1 << 10:
        return torch.randperm(length, generator=generator)[:count].sort().values
    while True:  # a long stretch rarely gives the same number twice
        drawn = torch.randint(length, (count,), generator=generator).unique()
        if len(drawn) == count:
            return drawn


def _t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, by its expansion around the normal quantile; the error is
    below 1 % from three degrees of freedom on."""
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
