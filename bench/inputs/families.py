"""Synthetic queries, keys and values; the name of each family describes its attention.

The description holds from about 32 channels on: with fewer, the favourite keys of a query cannot
have much larger scores than many others. The scores of favourites grow with the logarithm of the
number of keys, so it holds at every length. For another temperature, see the columns that describe
the inputs.

A quarter of the energy of the values is common to all keys of a head, as in layers of pretrained
models (0.04 to 0.27 in the committed capture), so that exact outputs are not close to zero. Half of
it has the structure of the family, and the rest is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.instruments.accuracy.oracle import exact
from bench.schema.case import Case

LENGTH = 128.0  # distance in tokens at which the similarity of two positions is 1/e
NEEDLES, QUESTIONS = 32, 8
SINK_VALUE = 0.3  # norm of a sink's value relative to others; 0.26 to 0.43 in the committed capture

Tensors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class DrawnHead:
    """One key/value head and the query heads that read it."""

    group: int  # number of query heads
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
        """Random unit vectors (count, head_dim)."""
        return torch.nn.functional.normalize(self.normal(count, self.head_dim), dim=-1)

    def length(self, score: float) -> float:
        """The length of a query and a key with the same direction that gives this scaled score."""
        return math.sqrt(score * math.sqrt(self.head_dim))

    def favourite(self, margin: float) -> float:
        """A score so large that a few keys with it have more weight than key_len others."""
        return max(1.0, math.log(self.key_len) + margin)

    def values(self, structure: Tensor) -> Tensor:
        """Values (key_len, head_dim) with the given structure, which has a variance of one."""
        noise = self.normal(self.key_len, self.head_dim)
        return 0.5 * self.normal(self.head_dim) + math.sqrt(0.5) * structure + 0.5 * noise

    def places(self) -> Tensor:
        """Random Fourier features (positions, head_dim) of all positions of queries and keys.

        They have about unit length, and their dot products fall as exp(-distance / LENGTH) (Rahimi
        and Recht 2007).
        """
        count = (self.head_dim + 1) // 2
        # Frequencies from a Cauchy distribution, one from each of its `count` equal parts.
        shares = (torch.arange(count) + torch.rand(count, generator=self.generator)) / count
        frequencies = (shares.double() * math.pi / 2).tan() / LENGTH
        phases = torch.rand(count, generator=self.generator) * 2 * math.pi
        positions = torch.arange(min(0, self.key_len - self.seq_len), self.key_len)
        # Reduced modulo 2 pi in float64: float32 has too few digits for a million radians.
        turns = torch.outer(positions.double(), frequencies).remainder_(2 * math.pi)
        angles = turns.float() + phases
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)[:, : self.head_dim]
        return features * math.sqrt(2 / self.head_dim)


def clustered(head: DrawnHead) -> Tensors:
    """Queries and keys around sqrt(key_len) common centres, in random order."""
    count = max(1, round(math.sqrt(head.key_len)))
    centres = head.directions(count) * head.length(head.favourite(0))
    of_queries = head.numbers(count, head.group, head.seq_len)
    of_keys = head.numbers(count, head.key_len)
    query = centres[of_queries] + 0.5 * head.normal(head.group, head.seq_len, head.head_dim)
    key = centres[of_keys] + 0.5 * head.normal(head.key_len, head.head_dim)
    return query, key, head.values(head.normal(count, head.head_dim)[of_keys])


def local(head: DrawnHead) -> Tensors:
    """Scores fall with distance, on a scale of about ten tokens; values are smooth in position."""
    return _placed(head, head.favourite(4), noise=0.5)


def _placed(head: DrawnHead, score: float, noise: float) -> Tensors:
    """Random queries and keys with this noise, plus the features of their positions."""
    places = head.places()
    query = noise * head.normal(head.group, head.seq_len, head.head_dim)
    key = noise * head.normal(head.key_len, head.head_dim)
    query += head.length(score) * places[-head.seq_len :]
    key += head.length(score) * places[-head.key_len :]
    structure = places[-head.key_len :] @ head.normal(head.head_dim, head.head_dim)
    return query, key, head.values(structure)


def needle(head: DrawnHead) -> Tensors:
    """Each query points in one of 8 directions, and 32 keys at random positions in the first eighth
    of the sequence point in the same directions; the other keys are noise. With a causal mask, a
    query before these 32 keys has no key to find."""
    early = torch.randperm(max(1, head.key_len // 8), generator=head.generator)
    needles = early[:NEEDLES]
    count = min(QUESTIONS, len(needles))
    questions = head.directions(count)
    asked = head.numbers(count, head.group, head.seq_len)
    answered = torch.arange(len(needles)) % count
    query = head.favourite(4) * questions[asked]
    query += 0.1 * head.normal(head.group, head.seq_len, head.head_dim)
    key = head.normal(head.key_len, head.head_dim)
    # Needles have the norm of other keys, so that the norm does not identify them.
    answers = key[needles] * 0.3 + math.sqrt(head.head_dim) * questions[answered]
    key[needles] = math.sqrt(head.head_dim) * torch.nn.functional.normalize(answers, dim=-1)
    structure = head.normal(head.key_len, head.head_dim)
    structure[needles] = head.normal(count, head.head_dim)[answered]
    return query, key, head.values(structure)


def sinks(head: DrawnHead) -> Tensors:
    """The first key gets about half of the attention and has a small value, as in deep layers of
    language models. The rest depends on distance and, more than in `local`, on content."""
    query, key, value = _placed(head, head.favourite(-2), noise=1.0)
    sink = head.directions(1)[0]
    # Only the component along `sink` determines the score of the first key, and this component does
    # not change the scores of other keys.
    query -= (query @ sink)[..., None] * sink
    key -= (key @ sink)[:, None] * sink
    key[0] = math.sqrt(head.head_dim) * sink
    query += _log_total_of_others(head, query, key)[:, None, None] * sink
    value[0] *= SINK_VALUE
    return query, key, value


def _log_total_of_others(head: DrawnHead, query: Tensor, key: Tensor) -> Tensor:
    """Log-sum-exp of the scores of all keys except the first, mean over rows, (group,).

    It is 0 if no row sees another key.
    """
    rows = torch.linspace(0, head.seq_len - 1, min(64, head.seq_len)).long()
    others = key[None, None, 1:]
    totals = exact(query[None], others, others[..., :0], rows, causal=head.causal).log_total[0]
    return totals[:, totals[0].isfinite()].mean(-1).nan_to_num().float()


def gaussian(case: Case) -> Tensors:
    """Independent standard normal numbers: nearly uniform attention, and values with mean zero."""
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
    "needle": "a few early keys that all queries match",
    "sinks": "a first key with about half of the attention, the rest by distance and content",
}


def draw(name: str, case: Case) -> Tensors:
    """Draw query (batch, heads, seq_len, head_dim), key and value (batch, kv_heads, key_len,
    head_dim), float32 on the CPU.

    Each key/value head is drawn separately, together with the query heads that read it. The numbers
    depend only on the case, not on the global random state. Memory is linear in the length.
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
