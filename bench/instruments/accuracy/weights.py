"""Compares the attention weights of a method with the exact ones, and with baselines that choose
the same number of keys in another way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bench.instruments.accuracy import oracle
from bench.instruments.accuracy.description import TOP
from bench.instruments.accuracy.reference import Reference
from bench.instruments.accuracy.sampled_rows import mean
from variants import Attention
from variants.contract.definitions import expand_heads, masked_softmax
from variants.contract.registry import reference_attention

# Weights in memory at a time, 64 MiB in float64. Smaller parts would fit the cache better, but the
# dense definition of a method reads all keys again for each part of the rows.
PAIRS = 1 << 23
KEPT_SCORES = 1 << 24  # largest sample with kept weights; others are computed again for each method
SELECTING = ("masked_softmax", "biased_softmax", "shared_qk_softmax")  # targets that leave keys out
SAME = 1.05  # two budgets count as equal up to this ratio


class _WeightPart(NamedTuple):
    """Exact weights of some of the sampled rows, and the greatest of these weights."""

    places: slice  # of the sampled rows
    weights: Tensor  # float64 (batch, heads, rows, keys)
    top: torch.return_types.topk


@dataclass(frozen=True)
class Weighed:
    """Comparison of the weights of the sampled rows; tensors are float64 (batch, heads, rows)."""

    out: Tensor  # (batch, heads, rows, head_dim): output of the dense definition
    kept_mass: Tensor
    top_recall: Tensor
    total_variation: Tensor
    keys_seen: Tensor
    target_out: Tensor | None  # with shared_qk: output of exact attention that shares them too


def weigh(attention: Attention, reference: Reference, *, shared_qk: bool = False) -> Weighed:
    """Compare an attention's `weights` with exact ones, some rows at a time.

    With `shared_qk` the attention is called with the query as its key. This takes O(rows·n) time
    and O(n) memory, in addition to the dense definition, which may compute features of all keys at
    once.
    """
    query, exact_key = reference.query.double(), reference.key.double()
    key = query if shared_qk else exact_key
    limit = _sharing_limit(attention) if shared_qk else None
    parts: dict[str, list[Tensor]] = {}
    for places, exact, top in _exact_parts(query, exact_key, reference):
        rows, keys = reference.sample.rows[places], exact.shape[-1]
        values = expand_heads(reference.value[:, :, :keys].double(), query.shape[1])
        # Causal rows have no weight on keys after these.
        own = attention.weights(query, key, causal=reference.causal, rows=rows)[..., :keys]
        seen = own != 0
        sought = top.values > 0
        lacking = (1 - own.sum(-1)).abs()  # missing weight, as on a key that does not exist
        found = {
            "out": own @ values,
            "kept_mass": exact.masked_fill(~seen, 0).sum(-1),
            "top_recall": _share(seen.gather(-1, top.indices) & sought, sought),
            "total_variation": ((own - exact).abs().sum(-1) + lacking) / 2,
            "keys_seen": seen.sum(-1).double(),
        }
        if limit is not None:
            sharing = limit.weights(query, key, causal=reference.causal, rows=rows)[..., :keys]
            found["target_out"] = sharing @ values
        for name, part in found.items():
            parts.setdefault(name, []).append(part)
    joined = {name: torch.cat(some, dim=2) for name, some in parts.items()}
    target_out = joined.pop("target_out", None)
    return Weighed(**joined, target_out=target_out)


def _exact_parts(query: Tensor, key: Tensor, reference: Reference) -> Iterable[_WeightPart]:
    """Exact weights of the sampled rows, some rows at a time. They are computed once for all
    methods, unless that takes too much memory."""

    def parts() -> Iterator[_WeightPart]:
        for places, scores in _scores(query, key, reference, PAIRS):
            exact = masked_softmax(scores, scores > -torch.inf)
            yield _WeightPart(places, exact, exact.topk(min(TOP, exact.shape[-1]), dim=-1))

    if len(reference.sample.rows) * query.shape[:2].numel() * key.shape[2] > KEPT_SCORES:
        return parts()
    return reference.once(("exact weights", PAIRS), lambda: list(parts()))


def _share(some: Tensor, of: Tensor) -> Tensor:
    return some.sum(-1).double() / of.sum(-1).clamp(min=1)


def _sharing_limit(attention: Attention) -> Attention:
    """Exact attention to compare with if query and key are shared."""
    if attention.target == "shared_qk_softmax":
        return replace(attention, **(attention.info.exact_when or {}))
    return reference_attention()


def budget(reference: Reference, seen: Weighed, affordable: float) -> Tensor:
    """The number of keys that the baselines may read, int64 (batch, heads, rows).

    This is the number of keys that the method sees in that row, or `affordable` for all rows if the
    method sees more than `affordable` keys on average.

    Args:
        reference: the inputs.
        seen: the comparison of the method's weights.
        affordable: keys per query that exact attention could read with the method's number of
            operations, as a mean over all rows.
    """
    visible = reference.visible_keys
    if float(mean(seen.keys_seen, reference.sample).mean()) <= SAME * affordable:
        wanted = seen.keys_seen
    else:
        wanted = torch.full_like(seen.keys_seen, round(affordable))
    return torch.minimum(wanted.long().clamp(min=1), visible)


def baselines(reference: Reference, keys: Tensor) -> tuple[float, float]:
    """Errors of softmax attention to random visible keys, and to the keys of greatest exact weight.

    Args:
        reference: the inputs and exact attention.
        keys: int64 (batch, heads, rows), number of keys in each row, from `budget`. All heads of a
            row use the same random order of keys.

    Returns:
        The error with random keys, and with the keys of greatest weight.
    """
    generator = torch.Generator().manual_seed(0)
    outs: dict[str, list[Tensor]] = {"random": [], "top": []}
    query, key = reference.query.double(), reference.key.double()
    for places, scores in _scores(query, key, reference, oracle.PAIRS):
        wanted, visible = keys[:, :, places], reference.visible_keys[places]
        allowed = torch.arange(scores.shape[-1], device=scores.device) < visible[:, None]
        # Rows that may read all visible keys take the exact output below and do not count here.
        most = int(wanted.masked_fill(wanted >= visible, 1).max())
        drawn = torch.rand(allowed.shape, generator=generator).to(scores.device)
        drawn = drawn.masked_fill(~allowed, -1).topk(most, dim=-1).indices
        drawn = drawn.expand(*scores.shape[:-1], most)
        best = scores.topk(most, dim=-1).indices
        values = expand_heads(reference.value[:, :, : scores.shape[-1]].double(), scores.shape[1])
        exact = reference.exact.out[:, :, places]
        for name, order in (("random", drawn), ("top", best)):
            chosen = torch.arange(most, device=scores.device) < wanted[..., None]
            few = masked_softmax(scores.gather(-1, order), chosen)
            out = torch.zeros_like(scores).scatter_(-1, order, few) @ values
            outs[name].append(torch.where((wanted >= visible)[..., None], exact, out))
    random, top = (reference.error(torch.cat(some, dim=2))[0] for some in outs.values())
    return random, top


def _scores(
    query: Tensor, key: Tensor, reference: Reference, pairs: int
) -> Iterator[tuple[slice, Tensor]]:
    """Exact scores (batch, heads, rows, keys) of the sampled rows, some rows at a time.

    The scores cover the keys up to the last one that any row of the part sees. `query` and `key`
    are those of the reference in float64, so that they are converted only once.
    """
    rows = reference.sample.rows
    step = max(1, pairs // (query.shape[0] * query.shape[1] * key.shape[2]))
    for first in range(0, len(rows), step):
        places = slice(first, min(first + step, len(rows)))
        (block,) = oracle.score_blocks(
            query, key, rows[places], causal=reference.causal, pairs=1 << 62
        )
        yield places, block.scores
