"""The rounds of hashed attention: a query sees the keys next to it in its bucket."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from variants.engines.rounds.lsh_sort import Ranks, Tiles
from variants.engines.rounds.merge_rounds import Round, Rounds


@dataclass(frozen=True, eq=False)
class HashedRounds(Rounds):
    """All heads are sorted at once, round by round."""

    query_buckets: Tensor  # int64 (batch, heads, rounds, query_len)
    key_buckets: Tensor  # int64 (batch, heads, rounds, key_len)
    key_padding_mask: Tensor | None
    chunk: int
    causal: bool
    hides_own: bool

    def __len__(self) -> int:
        return self.query_buckets.shape[2]

    def __getitem__(self, turn: int) -> Round:
        query_buckets, key_buckets = self.query_buckets, self.key_buckets
        padding = self.key_padding_mask
        hidden = None if padding is None else padding.repeat_interleave(query_buckets.shape[1], 0)
        ranks = Ranks.of(
            query_buckets[:, :, turn].flatten(0, 1),
            key_buckets[:, :, turn].flatten(0, 1),
            hidden,
            causal=self.causal,
        )
        chunk = min(self.chunk, key_buckets.shape[-1])
        return Round(
            Tiles.of(ranks, chunk, chunk),
            hides_later=self.causal,
            hides_own=self.hides_own,
            may_be_empty=self.causal or self.hides_own or padding is not None,
        )
