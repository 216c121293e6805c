"""LSH attention: a query sees keys with the same or a neighbouring hash, in several rounds.

Differs from public code: the packages reformer-pytorch (1.4.4) and transformers always use the
query as the key, join all rounds before they cut chunks (so that the first chunk of a round also
sees the last chunk of another round), and in a causal call cut chunks across buckets, so that later
tokens change earlier rows. Here queries and keys may differ, each round is cut separately, and a
causal call cuts each bucket separately.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import (
    compute_dtype,
    dot_products,
    expand_heads,
    masked_softmax,
    query_positions,
    visible,
)
from variants.contract.device import on_gpu
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.engines.gpu import launches
from variants.engines.gpu.selected import gathered_softmax, hashed_ranges
from variants.engines.rounds import merge_rounds
from variants.engines.rounds.lsh_hash import hashed
from variants.engines.rounds.lsh_sort import HashedRounds, Ranks

FACTOR_BITS = 5  # one rotation gives at most 2^5 buckets; more buckets need several rotations


@register(
    title="Reformer: The Efficient Transformer",
    year=2020,
    url="https://arxiv.org/abs/2001.04451",
    time="R·n·(c·d + log n)",
    memory="R·n·c",
    target="biased_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward"},
    implementations=("buckets", "coarse", "triton"),
    reduced_precision={"coarse"},
    exact_when={"bucket_size": 1 << 40},
    grid={"bucket_size": (64,), "num_hashes": (1, 2, 4, 8)},
)
@dataclass(frozen=True)
class LshAttention(Attention):
    """Softmax attention over keys in nearby chunks of a random order, in `num_hashes` rounds.

        In each round:  hash all queries and keys to buckets by random rotations;
                        order keys by (bucket, position) and cut them into chunks of bucket_size;
                        a query sees its own chunk and the chunk before it.
        weights[i] = softmax over j of scale · query[i] · key[j] + log(rounds in which i sees j)

    There is about one bucket for every `bucket_size` keys. A causal call needs j <= i, uses a
    quarter of the buckets, and cuts each bucket into chunks separately. With `shared_qk`, the keys
    are the queries, normalised to unit length, and a token does not see itself. The output of a
    query that sees no key is the value at its own position.

    Costs: n tokens, d = head_dim, R = num_hashes, c = bucket_size.
    """

    bucket_size: int = hyperparameter(
        64,
        minimum=1,
        doc="number of keys in a chunk; a query sees two chunks in each round",
        small=8,
        train=TimesLength(1 / 8),
    )
    num_hashes: int = hyperparameter(1, minimum=1, doc="number of hashing rounds", small=2, train=4)
    shared_qk: bool = hyperparameter(
        False, doc="Reformer's form: the query is also the key, and a token does not see itself"
    )
    seed: int = hyperparameter(0, doc="seed of the random rotations that hash queries and keys")

    @property
    def target(self) -> str:
        return "shared_qk_softmax" if self.shared_qk else self.info.target

    @property
    def uses_shared_qk(self) -> bool:
        return self.shared_qk

    @property
    def prefix_stable(self) -> bool:
        return False  # the number of buckets depends on the number of keys

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        implementation = self.choose_implementation(query, key)
        if implementation == "triton":
            return self._attend_on_gpu(query, key, value, call)
        hashed = HashedRounds(
            *self._hash(query, key, call.causal),
            call.key_padding_mask,
            chunk=self.bucket_size,
            causal=call.causal,
            hides_own=self.shared_qk,
        )
        out, empty = merge_rounds.attend(
            query,
            self._keys(key),
            value,
            hashed,
            scale=call.scale,
            coarse=implementation == "coarse",
        )
        own = self._own(query, key, call.key_padding_mask)
        if bool((alone := empty & (own >= 0)).any()):
            index = own.clamp(min=0)[..., None].expand(*query.shape)
            values = expand_heads(value, query.shape[1]).gather(2, index)
            out = torch.where(alone[..., None], values, out)
        return out

    def _attend_on_gpu(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        with torch.no_grad():
            gathered = hashed_ranges.ranges(
                *self._hash(query, key, call.causal),
                call.key_padding_mask,
                buckets=1 << sum(self._factors(key.shape[2], call.causal)),
                chunk=self.bucket_size,
                causal=call.causal,
            )
        rules = gathered_softmax.Rules(
            call.scale, hides_later=call.causal, hides_own=self.shared_qk, own_value=True
        )
        return gathered_softmax.attend(query, self._keys(key), value, gathered, rules)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        query_len, key_len = query.shape[2], key.shape[2]
        allowed = visible(rows, query_len, key_len, call)
        if self.shared_qk:
            own_key = torch.arange(key_len, device=rows.device)
            allowed = allowed & (own_key != query_positions(rows, query_len, key_len)[:, None])
        seen = self._times_seen(query, key, rows, call.causal, call.key_padding_mask) * allowed
        scores = dot_products(query, self._keys(key), rows, call.scale)
        weights = masked_softmax(scores + seen.clamp(min=1).to(scores.dtype).log(), seen > 0)
        own = self._own(query, key, call.key_padding_mask)[..., rows]
        alone = ~(seen > 0).any(-1) & (own >= 0)
        at_own = torch.arange(key_len, device=rows.device) == own[..., None]
        return weights + (alone[..., None] & at_own)

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        self._rotations(query, key, call.causal)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # The previous chunk and the query's own chunk; a causal query sees half of its own.
        keys = min((1.5 if causal else 2.0) * self.bucket_size, key_len)
        width = sum(2 ** (bits - 1) for bits in self._factors(key_len, causal))
        hashing = 2.0 * width * head_dim * (query_len + key_len)
        return self.num_hashes * batch * heads * (4.0 * head_dim * keys * query_len + hashing)

    def _factors(self, key_len: int, causal: bool) -> tuple[int, ...]:
        """Return the bits of the bucket number that each rotation of a round gives. All rotations
        together give about one bucket for every `bucket_size` keys."""
        size = self.bucket_size * (4 if causal else 1)
        bits = max(0, round(math.log2(key_len / size)))
        rotations = -(-bits // FACTOR_BITS)
        return tuple(bits // rotations + (i < bits % rotations) for i in range(rotations))

    def _rotations(self, query: Tensor, key: Tensor, causal: bool) -> tuple[Tensor, ...]:
        factors = self._factors(key.shape[2], causal)
        return _rotations(
            query.shape[1], self.num_hashes, query.shape[3], factors, self.seed, query.device
        )

    def _keys(self, key: Tensor) -> Tensor:
        """Return the keys that queries are compared with. The norm is computed in float32 at least,
        because squares can exceed the range of a half-precision dtype."""
        if not self.shared_qk:
            return key
        return normalize(key.to(compute_dtype(key.dtype)), dim=-1).to(key.dtype)

    def _hash(self, query: Tensor, key: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        """Return the buckets (batch, heads, num_hashes, len) of queries and keys, from float32.
        On a GPU with Triton, all implementations and the definition use the same kernel."""
        device = query.device
        if on_gpu(device) and launches.unavailable(device) is None:
            factors = self._factors(key.shape[2], causal)
            settings = self.num_hashes, query.shape[3], factors, self.seed
            beside = _beside(query.shape[1], *settings, device)
            one, two = (
                hashed_ranges.hashed(x, beside, sum(factors), len(factors)) for x in (query, key)
            )
            return one, two
        rotations = self._rotations(query, key, causal)
        heads = query.shape[1]
        query_bucket, key_bucket = (
            hashed(x, rotations, heads, self.num_hashes) for x in (query, key)
        )
        return query_bucket, key_bucket

    def _own(self, query: Tensor, key: Tensor, key_padding_mask: Tensor | None) -> Tensor:
        """Return the index of the key at each query's own position, (batch or 1, 1, query_len). It
        is negative if there is no such key or the key is padding."""
        rows = torch.arange(query.shape[2], device=query.device)
        own = query_positions(rows, query.shape[2], key.shape[2])[None, None]
        if key_padding_mask is not None:
            padded = key_padding_mask[:, own[0, 0].clamp(min=0)][:, None]
            own = own.masked_fill(padded, -1)
        return own

    def _times_seen(
        self,
        query: Tensor,
        key: Tensor,
        rows: Tensor,
        causal: bool,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """Count the rounds in which a row sees a key, (batch, heads, len(rows), key_len)."""
        batch, heads = query.shape[:2]
        query_buckets, key_buckets = self._hash(query, key, causal)
        hidden = None
        if key_padding_mask is not None:
            hidden = key_padding_mask.repeat_interleave(heads, dim=0)
        chunk = min(self.bucket_size, key.shape[2])
        shape = (batch * heads, len(rows), key.shape[2])
        seen = torch.zeros(shape, dtype=torch.int64, device=rows.device)
        for turn in range(self.num_hashes):
            placed = Ranks.of(
                query_buckets[:, :, turn].flatten(0, 1),
                key_buckets[:, :, turn].flatten(0, 1),
                hidden,
                causal=causal,
            )
            query_chunk = placed.query_rank[:, rows, None] // chunk
            chunks_back = query_chunk - placed.key_rank[:, None] // chunk
            together = placed.query_segment[:, rows, None] == placed.key_segment[:, None]
            seen += together & ((chunks_back == 0) | (chunks_back == 1))
        return seen.unflatten(0, (batch, heads))


@cached
def _rotations(
    heads: int,
    num_hashes: int,
    head_dim: int,
    factors: tuple[int, ...],
    seed: int,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """Draw a Gaussian matrix for each rotation, (heads, num_hashes, head_dim, buckets / 2)."""
    with lasting(seed) as generator:
        shapes = [(heads, num_hashes, head_dim, 2 ** (bits - 1)) for bits in factors]
        matrices = [torch.randn(s, generator=generator, dtype=torch.float32) for s in shapes]
        return tuple(matrix.to(device) for matrix in matrices)


@cached
def _beside(
    heads: int,
    num_hashes: int,
    head_dim: int,
    factors: tuple[int, ...],
    seed: int,
    device: torch.device,
) -> Tensor:
    """The rotations beside each other, (heads, num_hashes, head_dim, sum of their widths)."""
    nothing = torch.empty(heads, num_hashes, head_dim, 0, device=device)
    return torch.cat([nothing, *_rotations(heads, num_hashes, head_dim, factors, seed, device)], -1)
