"""Describes exact attention on given queries and keys: over how many keys the weights spread, and
which keys have them.

The error of a method depends on these properties of the inputs, so it is reported with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.instruments.accuracy.oracle import PAIRS, exact, score_blocks
from variants.contract.definitions import query_positions

NEAR = 128  # largest distance of a near key, in positions
TOP = 64


@dataclass(frozen=True)
class Description:
    """Means over rows, float64 (batch, heads); NaN if no row sees a key."""

    effective_keys: Tensor  # exp of the entropy of a row's weights
    sink_mass: Tensor  # weight of the key at position 0
    near_mass: Tensor  # weight of keys at a distance of at most 128
    top64_mass: Tensor  # weight of the 64 keys with the greatest weights
    logit_spread: Tensor  # standard deviation of the scaled scores of a row's visible keys


def describe(
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    row_weights: Tensor,
    *,
    causal: bool,
    log_total: Tensor | None = None,
    pairs: int = PAIRS,
) -> Description:
    """Describe exact attention of some query rows, computed over blocks of keys.

    Args:
        query: (batch, heads, query_len, head_dim), any dtype; computed in float64.
        key: (batch, kv_heads, key_len, head_dim).
        rows: int64 (rows,), indices of queries. A row that sees no key is left out.
        row_weights: (rows,), weight of each row in a mean.
        log_total: `Exact.log_total` of the same rows, if known.
        pairs: maximum number of scores in a block; memory grows with it and not with the number of
            keys.
    """
    positions = query_positions(rows, query.shape[2], key.shape[2])
    if causal:
        seeing = positions >= 0
        rows, row_weights, positions = rows[seeing], row_weights[seeing], positions[seeing]
        log_total = None if log_total is None else log_total[..., seeing]
    if len(rows) == 0:
        return Description(*torch.full((5, *query.shape[:2]), torch.nan, dtype=torch.float64))
    if log_total is None:
        log_total = exact(query, key, key[..., :0], rows, causal=causal, pairs=pairs).log_total
    entropy, sink, near, mean, squares = torch.zeros(
        5, *log_total.shape, dtype=torch.float64, device=query.device
    )
    count = torch.zeros(len(rows), dtype=torch.float64, device=query.device)
    top = log_total.new_empty(*log_total.shape, 0)
    for block in score_blocks(query, key, rows, causal=causal, pairs=pairs):
        scores = block.scores.masked_fill(~block.visible, 0)
        logarithms = scores - log_total[..., None]
        weights = logarithms.exp().masked_fill_(~block.visible, 0)
        entropy -= (weights * logarithms).sum(-1)
        if block.keys.start == 0:
            sink += weights[..., 0]
        indices = torch.arange(block.keys.start, block.keys.stop, device=rows.device)
        distant = (indices - positions[:, None]).abs() > NEAR
        near += weights.masked_fill(distant, 0).sum(-1)
        candidates = torch.cat([top, weights], dim=-1)
        top = candidates.topk(min(TOP, candidates.shape[-1])).values
        # Combine means and squared deviations of two sets of scores (Chan et al. 1983).
        added = block.visible.sum(-1).double()
        own = scores.sum(-1) / added.clamp(min=1)
        deviations = (scores - own[..., None]).square_().masked_fill_(~block.visible, 0)
        share = added / (count + added).clamp(min=1)
        squares += deviations.sum(-1) + (own - mean).square() * count * share
        mean += (own - mean) * share
        count += added
    seen = (entropy.exp(), sink, near, top.sum(-1), (squares / count).sqrt())
    weight = row_weights.double()
    return Description(*((each * weight).sum(-1) / weight.sum() for each in seen))


def mean_effective_keys(
    query: Tensor, key: Tensor, rows: Tensor, *, causal: bool, pairs: int = PAIRS
) -> float:
    """The mean of `effective_keys` over batch, heads and rows that see a key.

    It is computed in one pass over the keys. The arguments are those of `describe`.
    """
    if causal:
        rows = rows[query_positions(rows, query.shape[2], key.shape[2]) >= 0]
    shape = (*query.shape[:2], len(rows))
    highest = torch.full(shape, -torch.inf, dtype=torch.float64, device=query.device)
    total, moment = torch.zeros(2, *shape, dtype=torch.float64, device=query.device)
    if len(rows) == 0:
        return math.nan
    for block in score_blocks(query, key, rows, causal=causal, pairs=pairs):
        risen = torch.maximum(highest, block.scores.amax(-1))
        kept = (highest - risen).exp()
        kernel = (block.scores - risen[..., None]).exp_()
        total = total * kept + kernel.sum(-1)
        moment = moment * kept + kernel.mul_(block.scores.clamp_(min=-1e300)).sum(-1)
        highest = risen
    entropy = total.log() + highest - moment / total
    return float(entropy.exp().mean())
