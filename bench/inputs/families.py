"""Synthetic queries, keys and values; each family is named for what its attention is like.

That holds from some 32 channels on: in few, favourites cannot stand out among many keys. Scores of
favourites grow with the logarithm of the number of keys, so that it holds at every length; what
becomes of it at another temperature, the description of the inputs says.

A quarter of the energy of values is common to all keys of a head, as in layers of real models
(0.04 to 0.27 in the committed capture), so that exact outputs are not close to zero. Half has the
family's structure, the rest is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.accuracy.oracle import exact
from bench.measurement import Case

LENGTH = 128.0  # tokens after which the likeness of two positions has fallen to 1/e
NEEDLES, QUESTIONS = 32, 8
SINK_VALUE = 0.3  # of a sink's value to others', as in the committed capture (0.26 to 0.43)

Tensors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class DrawnHead:
    """One key/value head and the query heads that read it."""

    group: int  # query heads
    seq_len: int
    key_len: int
    head_dim: int
    causal: bool
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def numbers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self.generator)

    def directions(self, count: int) -> Tensor:
        """Unit vectors (count, head_dim)."""
        return torch.nn.functional.normalize(self.normal(count, self.head_dim), dim=-1)

    def length(self, score: float) -> float:
        """Of a query and a key in the same direction that have this scaled score."""
        return math.sqrt(score * math.sqrt(self.head_dim))

    def favourite(self, margin: float) -> float:
        """A score so far above the average that few keys outweigh key_len others."""
        return max(1.0, math.log(self.key_len) + margin)

    def values(self, structure: Tensor) -> Tensor:
        """(key_len, head_dim) of a structure with a variance of one."""
        noise = self.normal(self.key_len, self.head_dim)
        return 0.5 * self.normal(self.head_dim) + math.sqrt(0.5) * structure + 0.5 * noise

    def places(self) -> Tensor:
        """Random Fourier features (positions, head_dim) of all positions of queries and keys, from
        the first one on: vectors of about unit length whose product falls as exp(-distance/LENGTH)
        (Rahimi and Recht 2007)."""
        count = (self.head_dim + 1) // 2
        # Frequencies of a Cauchy distribution, one from each of `count` equal parts of it.
        shares = (torch.arange(count) + torch.rand(count, generator=self.generator)) / count
        frequencies = (shares.double() * math.pi / 2).tan() / LENGTH
        phases = torch.rand(count, generator=self.generator) * 2 * math.pi
        positions = torch.arange(min(0, self.key_len - self.seq_len), self.key_len)
        # In float64 until whole turns are gone: a million radians leave float32 no fraction.
        turns = torch.outer(positions.double(), frequencies).remainder_(2 * math.pi)
        angles = turns.float() + phases
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)[:, : self.head_dim]
        return features * math.sqrt(2 / self.head_dim)


def clustered(head: DrawnHead) -> Tensors:
    """Queries and keys around common centres in random order, as many centres as keys in each."""
    count = max(1, round(math.sqrt(head.key_len)))
    centres = head.directions(count) * head.length(head.favourite(0))
    of_queries = head.numbers(count, head.group, head.seq_len)
    of_keys = head.numbers(count, head.key_len)
    query = centres[of_queries] + 0.5 * head.normal(head.group, head.seq_len, head.head_dim)
    key = centres[of_keys] + 0.5 * head.normal(head.key_len, head.head_dim)
    return query, key, head.values(head.normal(count, head.head_dim)[of_keys])


def local(head: DrawnHead) -> Tensors:
    """Scores fall with distance, on a scale of some ten tokens; values are smooth in position."""
    return _placed(head, head.favourite(4), noise=0.5)


def _placed(head: DrawnHead, score: float, noise: float) -> Tensors:
    """Random queries and keys of this noise, with the features of their positions added."""
    places = head.places()
    query = noise * head.normal(head.group, head.seq_len, head.head_dim)
    key = noise * head.normal(head.key_len, head.head_dim)
    query += head.length(score) * places[-head.seq_len :]
    key += head.length(score) * places[-head.key_len :]
    structure = places[-head.key_len :] @ head.normal(head.head_dim, head.head_dim)
    return query, key, head.values(structure)


def needle(head: DrawnHead) -> Tensors:
    """Each query asks one of 8 questions, and 32 keys at random places in the first eighth answer
    them; the others are noise. A causal query before its needles has nothing to find."""
    early = torch.randperm(max(1, head.key_len // 8), generator=head.generator)
    needles = early[:NEEDLES]
    count = min(QUESTIONS, len(needles))
    questions = head.directions(count)
    asked = head.numbers(count, head.group, head.seq_len)
    answered = torch.arange(len(needles)) % count
    query = head.favourite(4) * questions[asked]
    query += 0.1 * head.normal(head.group, head.seq_len, head.head_dim)
    key = head.normal(head.key_len, head.head_dim)
    # Needles are as long as other keys, so that their size does not give them away.
    answers = key[needles] * 0.3 + math.sqrt(head.head_dim) * questions[answered]
    key[needles] = math.sqrt(head.head_dim) * torch.nn.functional.normalize(answers, dim=-1)
    structure = head.normal(head.key_len, head.head_dim)
    structure[needles] = head.normal(count, head.head_dim)[answered]
    return query, key, head.values(structure)


def sinks(head: DrawnHead) -> Tensors:
    """The first key takes about half of the attention and has a small value, as in deep layers of
    language models; the rest goes by distance and, more than in `local`, by content."""
    query, key, value = _placed(head, head.favourite(-2), noise=1.0)
    sink = head.directions(1)[0]
    # No other part of a query has a say in how much the sink takes, nor has the sink's direction
    # in what the others do.
    query -= (query @ sink)[..., None] * sink
    key -= (key @ sink)[:, None] * sink
    key[0] = math.sqrt(head.head_dim) * sink
    query += _log_total_of_others(head, query, key)[:, None, None] * sink
    value[0] *= SINK_VALUE
    return query, key, value


def _log_total_of_others(head: DrawnHead, query: Tensor, key: Tensor) -> Tensor:
    """(group,): logarithm of the sum of exp(score) over all keys but the first, mean over rows; 0
    where no row sees another."""
    rows = torch.linspace(0, head.seq_len - 1, min(64, head.seq_len)).long()
    others = key[None, None, 1:]
    totals = exact(query[None], others, others[..., :0], rows, causal=head.causal).log_total[0]
    return totals[:, totals[0].isfinite()].mean(-1).nan_to_num().float()


def gaussian(case: Case) -> Tensors:
    """Independent standard normal numbers: flat attention, and values that average to zero."""
    generator = torch.Generator().manual_seed(case.seed)
    queries = (case.batch, case.heads, case.seq_len, case.head_dim)
    keys = (case.batch, case.kv_heads, case.key_len, case.head_dim)
    query, key, value = (torch.randn(s, generator=generator) for s in (queries, keys, keys))
    return query, key, value


FAMILIES: dict[str, Callable[[DrawnHead], Tensors]] = {
    family.__name__: family for family in (clustered, local, needle, sinks)
}
DETAILS = {
    "gaussian": "independent standard normal numbers",
    "clustered": "queries and keys around common centres",
    "local": "scores that fall with distance",
    "needle": "a few early keys that later queries look for",
    "sinks": "a first key that takes about half, the rest by distance and content",
}


def draw(name: str, case: Case) -> Tensors:
    """Query (batch, heads, seq_len, head_dim), key and value (batch, kv_heads, key_len, head_dim),
    float32 on the CPU; every key/value head, with the queries that read it, is a draw of its own.

    The same case has the same numbers whatever the global random state. Memory is linear in the
    length.
    """
    if name == "gaussian":
        return gaussian(case)
    generator = torch.Generator().manual_seed(case.seed)
    group = case.heads // case.kv_heads
    head = DrawnHead(group, case.seq_len, case.key_len, case.head_dim, case.causal, generator)
    query = torch.empty(case.batch, case.kv_heads, group, case.seq_len, case.head_dim)
    key = torch.empty(case.batch, case.kv_heads, case.key_len, case.head_dim)
    value = torch.empty_like(key)
    for sequence in range(case.batch):
        for i in range(case.kv_heads):
            made = FAMILIES[name](head)
            query[sequence, i], key[sequence, i], value[sequence, i] = made
    return query.flatten(1, 2), key, value
