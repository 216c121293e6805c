"""The definition of each known method, implemented a second time in plain loops over rows, keys and
rounds.

Nothing here uses `variants.contract`, so an error that a kernel and its `weights` share is
detected. Random draws are taken from the variant, and separate tests check their distribution.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.plain_loops import HEAD_DIM, HEADS, in_every_call, padding_of, tensors

LENGTHS = [(26, 26), (9, 26), (26, 9), (1, 26)]
at_every_length = pytest.mark.parametrize(("query_len", "key_len"), LENGTHS)


def shown_keys(
    batch: int, position: int, key_len: int, causal: bool, padding: Tensor | None
) -> list[int]:
    """The keys that are not padded and, if causal, not later than the query."""
    return [
        j
        for j in range(key_len)
        if (not causal or j <= position) and (padding is None or not padding[batch, j])
    ]


def by_loops(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    coefficient: Callable[[int, int, int, int], float | Tensor],
    *,
    causal: bool,
    padding: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weights and outputs: `coefficient(batch, head, row, key)` divided by its sum over the row."""
    batch, heads, query_len, _ = query.shape
    key_len = key.shape[2]
    weights = torch.zeros(batch, heads, query_len, key_len, dtype=torch.float64)
    out = torch.zeros_like(query)
    for b in range(batch):
        for h in range(heads):
            kv_head = h // (heads // key.shape[1])
            for i in range(query_len):
                position = i + key_len - query_len
                for j in shown_keys(b, position, key_len, causal, padding):
                    weights[b, h, i, j] = coefficient(b, h, i, j)
                total = weights[b, h, i].sum()
                if total > 0:
                    weights[b, h, i] /= total
                out[b, h, i] = weights[b, h, i] @ value[b, kv_head]
    return weights, out


def exponential(query: Tensor, key: Tensor, scale: float) -> Callable[[int, int, int, int], Tensor]:
    def of(b: int, h: int, i: int, j: int) -> Tensor:
        return torch.exp(scale * torch.dot(query[b, h, i], key[b, h // 2, j]))

    return of


def assert_is(
    attention: variants.Attention,
    inputs: tuple[Tensor, Tensor, Tensor],
    coefficient: Callable[[int, int, int, int], float | Tensor],
    *,
    causal: bool,
    padding: Tensor | None,
    **call: Any,
) -> None:
    """Kernel and `weights` of a variant equal the normalised coefficients."""
    weights, out = by_loops(*inputs, coefficient, causal=causal, padding=padding)
    call |= {"causal": causal, "key_padding_mask": padding}
    assert_close(attention.weights(*inputs[:2], **call), weights)
    assert_close(attention(*inputs, **call), out)


def assert_masked_softmax(
    attention: variants.Attention,
    sees: Callable[[int, int, int], bool],
    query_len: int,
    key_len: int,
    causal: bool,
    padded: bool,
    scale: float | None = None,
) -> None:
    """Softmax over the keys for which `sees(head, position of the query, position of the key)` is
    true."""
    inputs = tensors(query_len, key_len)
    exp = exponential(*inputs[:2], 1 / math.sqrt(HEAD_DIM) if scale is None else scale)

    def coefficient(b: int, h: int, i: int, j: int) -> float | Tensor:
        return exp(b, h, i, j) if sees(h, i + key_len - query_len, j) else 0.0

    padding = padding_of(key_len) if padded else None
    assert_is(attention, inputs, coefficient, causal=causal, padding=padding, scale=scale)


def support(attention: variants.Attention, length: int, heads: int = HEADS, **call: Any) -> Tensor:
    """Bool (heads, length, length): the keys that a row can see, independent of the numbers."""
    zeros = torch.zeros(1, heads, length, 2, dtype=torch.float64)
    return attention.weights(zeros, zeros, **call)[0] > 0


# --- Full, sliding window, Longformer


@in_every_call
@at_every_length
def test_full_attention_is_softmax_over_every_key(
    query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = variants.create("full")
    assert_masked_softmax(attention, lambda *_: True, query_len, key_len, causal, padded)
    assert_masked_softmax(attention, lambda *_: True, query_len, key_len, causal, padded, 0.7)


@in_every_call
@at_every_length
@pytest.mark.parametrize("radius", [0, 5, 24])
def test_sliding_window_is_softmax_over_keys_within_the_radius(
    radius: int, query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = variants.create("sliding_window", window_size=radius)

    def sees(head: int, query: int, key: int) -> bool:
        return abs(query - key) <= radius

    assert_masked_softmax(attention, sees, query_len, key_len, causal, padded)


def test_the_window_includes_both_of_its_ends() -> None:
    attention = variants.create("sliding_window", window_size=2)
    seen = support(attention, 7, heads=1)[0]
    assert seen[3].tolist() == [False, True, True, True, True, True, False]
    seen = support(attention, 7, heads=1, causal=True)[0]
    assert seen[3].tolist() == [False, True, True, True, False, False, False]


@in_every_call
@at_every_length
@pytest.mark.parametrize(("radius", "tokens"), [(0, 1), (3, 4), (2, 40)])
def test_longformer_adds_rows_and_columns_of_global_tokens(
    radius: int, tokens: int, query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = variants.create("longformer", window_size=radius, num_global_tokens=tokens)

    def sees(head: int, query: int, key: int) -> bool:
        return abs(query - key) <= radius or key < tokens or 0 <= query < tokens

    assert_masked_softmax(attention, sees, query_len, key_len, causal, padded)


def test_a_global_key_inside_the_window_counts_once() -> None:
    attention = variants.create("longformer", window_size=2, num_global_tokens=3)
    zeros = torch.zeros(1, 1, 9, 4)
    weights = attention.weights(zeros, zeros)[0, 0]
    # Row 4 sees keys 2 to 6 by its window, and keys 0 to 2 as global tokens: seven keys, key 2
    # once.
    assert_close(weights[4], torch.tensor([1.0] * 7 + [0.0] * 2) / 7)
    value = torch.eye(9)[None, None]
    zeros = torch.zeros(1, 1, 9, 9)
    assert_close(attention(zeros, zeros, value)[0, 0, 4], weights[4])


@in_every_call
@at_every_length
@pytest.mark.parametrize(("radius", "tokens"), [(0, 1), (3, 4), (2, 40)])
def test_attention_sinks_add_columns_of_the_first_tokens_and_no_rows(
    radius: int, tokens: int, query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = variants.create("attention_sinks", window_size=radius, num_sink_tokens=tokens)

    def sees(head: int, query: int, key: int) -> bool:
        return abs(query - key) <= radius or key < tokens

    assert_masked_softmax(attention, sees, query_len, key_len, causal, padded)


# --- BigBird

BLOCK = 4


def drawn_blocks(
    attention: variants.Attention, blocks: int, heads: int, size: int = 1
) -> list[list[set[int]]]:
    """For each head and block of queries, the visible blocks of keys. Each block is visible as a
    whole."""
    seen = support(attention, blocks * size, heads)
    tiles = seen.unflatten(-1, (blocks, size)).unflatten(-3, (blocks, size)).transpose(-3, -2)
    part, whole = tiles.any(-1).any(-1), tiles.all(-1).all(-1)
    assert bool((part == whole).all()), "only a part of a block is visible"
    return [
        [{j for j in range(blocks) if whole[h, i, j]} for i in range(blocks)] for h in range(heads)
    ]


def near_or_global(row: int, blocks: int, front: int = 1, back: int = 1) -> set[int]:
    window = {row - 1, row, row + 1} & set(range(blocks))
    return window | set(range(front)) | set(range(blocks - back, blocks))


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_bigbird_sees_neighbour_blocks_global_blocks_and_the_given_number_of_random_blocks(
    draws: int,
) -> None:
    blocks = 14
    attention = variants.create("bigbird", block_size=BLOCK, num_random_blocks=draws)
    seen = drawn_blocks(attention, blocks, HEADS, BLOCK)
    for rows in seen:
        assert rows[0] == rows[-1] == set(range(blocks))
        for i in range(1, blocks - 1):
            fixed = near_or_global(i, blocks)
            assert fixed <= rows[i]
            assert len(rows[i] - fixed) == draws
    if draws:
        assert len({tuple(map(frozenset, rows)) for rows in seen}) == HEADS, (
            "all heads have the same draws"
        )


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6, 7, 8])
def test_bigbird_sees_all_candidates_if_there_are_too_few(blocks: int) -> None:
    attention = variants.create("bigbird", block_size=BLOCK, num_random_blocks=3)
    for rows in drawn_blocks(attention, blocks, HEADS, BLOCK):
        for i in range(1, blocks - 1):
            fixed = near_or_global(i, blocks)
            assert fixed <= rows[i]
            assert len(rows[i] - fixed) == min(3, blocks - len(fixed))


@pytest.mark.parametrize(
    ("total", "front", "back"), [(0, 0, 0), (1, 1, 0), (2, 1, 1), (3, 2, 1), (5, 3, 2)]
)
def test_global_blocks_of_bigbird_are_at_both_ends_with_the_odd_one_first(
    total: int, front: int, back: int
) -> None:
    blocks = 16
    attention = variants.create(
        "bigbird", block_size=BLOCK, num_random_blocks=2, num_global_blocks=total
    )
    for rows in drawn_blocks(attention, blocks, HEADS, BLOCK):
        for i in range(blocks):
            if i < front or i >= blocks - back:
                assert len(rows[i]) == blocks
            else:
                fixed = near_or_global(i, blocks, front, back)
                assert fixed <= rows[i]
                assert len(rows[i] - fixed) == 2


@in_every_call
@pytest.mark.parametrize(("query_len", "key_len"), [(39, 39), (21, 39), (39, 21), (1, 39)])
def test_bigbird_is_softmax_over_the_blocks_it_draws(
    query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    """A pair that is near, global and drawn counts once. The last block of keys is shorter."""
    attention = variants.create("bigbird", block_size=BLOCK, num_random_blocks=2)
    blocks = -(-key_len // BLOCK)
    drawn = drawn_blocks(attention, blocks, HEADS, BLOCK)

    def sees(head: int, query: int, key: int) -> bool:
        row, column = query // BLOCK, key // BLOCK
        if row < 0:  # before the first key: only near or global keys
            return abs(row - column) <= 1 or column in (0, blocks - 1)
        return column in drawn[head][row]

    assert_masked_softmax(attention, sees, query_len, key_len, causal, padded)


def chi_square(counts: Sequence[int], trials: int, chosen: int) -> float:
    """Chi-square statistic of the counts of the candidates, with `chosen` drawn without
    replacement.

    The covariance of such indicators is p(1 - p)·K/(K - 1) on vectors orthogonal to the constant
    one, so this has the chi-square distribution with K - 1 degrees of freedom.
    """
    candidates = len(counts)
    share = chosen / candidates
    spread = trials * share * (1 - share) * candidates / (candidates - 1)
    return sum((count - trials * share) ** 2 for count in counts) / spread


def far_above(degrees: int) -> float:
    """Five standard deviations above the mean of chi-square."""
    return degrees + 5 * math.sqrt(2 * degrees)


def test_bigbird_draws_every_block_and_every_pair_equally_often() -> None:
    blocks, heads, draws = 10, 40, 2
    seeds = range(100)
    trials = heads * len(seeds)
    singles = [Counter[int]() for _ in range(blocks)]
    pairs = [Counter[tuple[int, ...]]() for _ in range(blocks)]
    for seed in seeds:
        attention = variants.create("bigbird", block_size=1, num_random_blocks=draws, seed=seed)
        for rows in drawn_blocks(attention, blocks, heads):
            for i in range(1, blocks - 1):
                extra = sorted(rows[i] - near_or_global(i, blocks))
                singles[i].update(extra)
                pairs[i].update(combinations(extra, 2))
    for i in range(1, blocks - 1):
        candidates = sorted(set(range(blocks)) - near_or_global(i, blocks))
        counts = [singles[i][j] for j in candidates]
        assert sum(counts) == draws * trials
        assert chi_square(counts, trials, draws) < far_above(len(candidates) - 1)
        all_pairs = list(combinations(candidates, 2))
        counts = [pairs[i][pair] for pair in all_pairs]
        assert sum(counts) == trials
        assert chi_square(counts, trials, 1) < far_above(len(all_pairs) - 1)


def test_bigbird_rows_and_heads_draw_independently() -> None:
    """The draw of one block of queries does not depend on the draw of the next block or of another
    head."""
    blocks, heads, trials = 12, 2, 1500
    agree = Counter[str]()
    for seed in range(trials):
        attention = variants.create("bigbird", block_size=1, num_random_blocks=1, seed=seed)
        seen = drawn_blocks(attention, blocks, heads)
        drawn = [[rows[i] - near_or_global(i, blocks) for i in range(blocks)] for rows in seen]
        agree["heads"] += drawn[0][5] == drawn[1][5]
        agree["rows"] += drawn[0][3] == drawn[0][8]
    # Row 5 of 12 has 7 candidates. Rows 3 and 8 have 7 each; 4 of these are candidates of both
    # rows.
    for which, chance in (("heads", 1 / 7), ("rows", 4 / 49)):
        deviation = math.sqrt(trials * chance * (1 - chance))
        assert abs(agree[which] - trials * chance) < 5 * deviation, which


# --- Linear attention


def elu_plus_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x))


def positive_part(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.0)


FEATURES = {"elu": elu_plus_one, "relu": positive_part}


@in_every_call
@at_every_length
@pytest.mark.parametrize("scale", [None, 0.4])
@pytest.mark.parametrize("name", list(FEATURES))
def test_linear_attention_weighs_by_the_product_of_features(
    name: str, scale: float | None, query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = variants.create("linear", feature_map=name)
    query, key, value = tensors(query_len, key_len)
    queries = FEATURES[name](query * (1.0 if scale is None else scale))
    keys = FEATURES[name](key)

    def coefficient(b: int, h: int, i: int, j: int) -> Tensor:
        return torch.dot(queries[b, h, i], keys[b, h // 2, j])

    padding = padding_of(key_len) if padded else None
    assert_is(
        attention, (query, key, value), coefficient, causal=causal, padding=padding, scale=scale
    )


def recurrence(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of one head as in the papers: each token adds to a recurrent state."""
    state = torch.zeros(keys.shape[-1], values.shape[-1], dtype=torch.float64)
    normaliser = torch.zeros(keys.shape[-1], dtype=torch.float64)
    rows = []
    for query, key, value in zip(queries, keys, values, strict=True):
        state = state + torch.outer(key, value)
        normaliser = normaliser + key
        total = torch.dot(query, normaliser)
        rows.append(query @ state / total if total > 0 else torch.zeros_like(value))
    return torch.stack(rows)


@pytest.mark.parametrize("name", list(FEATURES))
def test_causal_linear_attention_is_the_recurrence(name: str) -> None:
    """The sequence is longer than a chunk of the kernel."""
    query, key, value = tensors(300, 300)
    out = variants.create("linear", feature_map=name)(query, key, value, causal=True)
    for h in range(HEADS):
        expected = recurrence(
            FEATURES[name](query[1, h]), FEATURES[name](key[1, h // 2]), value[1, h // 2]
        )
        assert_close(out[1, h], expected)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_elu_features_keep_their_precision_for_large_negative_inputs(causal: bool) -> None:
    """The feature is exp(x) there. Adding 1 to a number close to -1 would lose all digits."""
    query, key, value = tensors(26, 26)
    query, key = query - 16, key - 16
    _, expected = by_loops(
        query,
        key,
        value,
        lambda b, h, i, j: torch.dot(elu_plus_one(query[b, h, i]), elu_plus_one(key[b, h // 2, j])),
        causal=causal,
        padding=None,
    )
    attention = variants.create("linear", feature_map="elu")
    single = [x.float() for x in (query, key, value)]
    out = attention(*single, causal=causal)
    weights = attention.weights(*single[:2], causal=causal)
    by_weights = weights @ torch.stack([single[2][:, h // 2] for h in range(HEADS)], dim=1)
    # Inputs near -16 have an absolute rounding error of 1e-6; in the exponential it is relative.
    assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    assert_close(by_weights.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_relu_row_without_a_common_feature_is_zero() -> None:
    query = torch.tensor([[[[1.0, -1.0], [1.0, 1.0]]]])
    key = torch.tensor([[[[-1.0, 2.0], [-3.0, 1.0]]]])
    value = torch.tensor([[[[5.0, 6.0], [7.0, 8.0]]]])
    out = variants.create("linear", feature_map="relu")(query, key, value)
    # The first query has no positive channel in common with a key; the second weighs them 2 to 1.
    expected = [[0.0, 0.0], [(2 * 5.0 + 7.0) / 3, (2 * 6.0 + 8.0) / 3]]
    assert_close(out[0, 0], torch.tensor(expected))


# --- Performer


def directions_of(attention: Any, heads: int = HEADS, head_dim: int = HEAD_DIM) -> Tensor:
    """The drawn directions, (heads, num_features, head_dim)."""
    return attention._placed_directions(torch.zeros(1, heads, 1, head_dim, dtype=torch.float64))


def favor_features(x: Tensor, directions: Tensor) -> Tensor:
    """exp(w·x' - |x'|²/2) / sqrt(m), with x' = x / head_dim^(1/4)."""
    x = x / x.shape[-1] ** 0.25
    exponents = x @ directions.T - x.square().sum(-1, keepdim=True) / 2
    return torch.exp(exponents) / math.sqrt(len(directions))


@in_every_call
@at_every_length
@pytest.mark.parametrize("scale", [None, 0.9])
def test_performer_weighs_by_the_product_of_random_features(
    scale: float | None, query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = variants.create("performer", num_features=16)
    directions = directions_of(attention)
    query, key, value = tensors(query_len, key_len)
    # The features estimate exp(q·k / sqrt(head_dim)); another scale multiplies the query.
    scaled = query * (1.0 if scale is None else scale * math.sqrt(HEAD_DIM))
    queries = [[favor_features(scaled[b, h], directions[h]) for h in range(HEADS)] for b in (0, 1)]
    keys = [[favor_features(key[b, h // 2], directions[h]) for h in range(HEADS)] for b in (0, 1)]

    def coefficient(b: int, h: int, i: int, j: int) -> Tensor:
        return torch.dot(queries[b][h][i], keys[b][h][j])

    padding = padding_of(key_len) if padded else None
    assert_is(
        attention, (query, key, value), coefficient, causal=causal, padding=padding, scale=scale
    )


def test_causal_performer_is_the_recurrence() -> None:
    """The sequence is longer than a chunk of the kernel, and the keys grow with the position."""
    attention = variants.create("performer", num_features=16)
    query, key, value = tensors(300, 300)
    key = key * torch.linspace(0.2, 3, 300, dtype=torch.float64)[:, None]
    out = attention(query, key, value, causal=True)
    for h, directions in enumerate(directions_of(attention)):
        expected = recurrence(
            favor_features(query[1, h], directions),
            favor_features(key[1, h // 2], directions),
            value[1, h // 2],
        )
        assert_close(out[1, h], expected)


def test_performer_directions_are_orthogonal_within_blocks_of_head_dim() -> None:
    directions = directions_of(variants.create("performer", num_features=2 * HEAD_DIM + 2))
    assert directions.shape == (HEADS, 2 * HEAD_DIM + 2, HEAD_DIM)
    for head in directions:
        for block in head.split(HEAD_DIM):
            gram = block @ block.T
            off = gram - torch.diag(gram.diagonal())
            assert float(off.abs().max()) < 1e-12
        first, second = head[:HEAD_DIM], head[HEAD_DIM : 2 * HEAD_DIM]
        assert float((first @ second.T).abs().max()) > 0.1, "blocks must be drawn independently"


def many_directions() -> Tensor:
    """20 seeds × 40 heads × 50 blocks as (blocks, HEAD_DIM directions, HEAD_DIM)."""
    draws = [
        directions_of(variants.create("performer", num_features=50 * HEAD_DIM, seed=seed), heads=40)
        for seed in range(20)
    ]
    return torch.cat(draws).flatten(0, 1).unflatten(0, (-1, HEAD_DIM))


def assert_mean(samples: Tensor, expected: float | Tensor) -> None:
    """The mean over the first dimension is within five standard errors."""
    error = samples.std(0) / math.sqrt(len(samples))
    deviation = (samples.mean(0) - expected).abs()
    assert bool((deviation < 5 * error).all()), (samples.mean(0), expected, error)


def test_performer_directions_have_the_lengths_and_directions_of_gaussian_vectors() -> None:
    blocks = many_directions()
    d = HEAD_DIM
    lengths = blocks.norm(dim=-1)
    # Moments of the chi distribution with d degrees of freedom.
    mean = math.sqrt(2) * math.gamma((d + 1) / 2) / math.gamma(d / 2)
    assert_mean(lengths, mean)
    assert_mean(lengths**2, d)
    assert_mean(lengths**4, d * (d + 2))
    # Lengths do not depend on each other or on the index of a direction in its block.
    assert_mean((lengths[:, 0] - mean) * (lengths[:, 1] - mean), 0.0)
    # Uniform on the sphere: no preferred side or axis, for each index in the block.
    assert_mean(blocks, 0.0)
    outer = blocks[..., :, None] * blocks[..., None, :]
    assert_mean(outer, torch.eye(d, dtype=torch.float64))
    unit = blocks / lengths[..., None]
    assert_mean(unit**4, 3 / (d * (d + 2)))


def test_performer_heads_and_seeds_draw_different_directions() -> None:
    first = directions_of(variants.create("performer", num_features=8, seed=0))
    second = directions_of(variants.create("performer", num_features=8, seed=1))
    every = torch.cat([first, second])
    for one, other in combinations(every, 2):
        assert not torch.allclose(one, other)


def test_performer_kernel_estimates_the_softmax_kernel_without_bias() -> None:
    """The mean over draws of feature(q)·feature(k) is exp(q·k / sqrt(head_dim))."""
    generator = torch.Generator().manual_seed(5)
    query, key = torch.randn(2, 5, HEAD_DIM, generator=generator, dtype=torch.float64)
    estimates = []
    for seed in range(50):
        attention = variants.create("performer", num_features=2 * HEAD_DIM, seed=seed)
        for directions in directions_of(attention, heads=100):
            estimates.append(favor_features(query, directions) @ favor_features(key, directions).T)
    assert_mean(torch.stack(estimates), torch.exp(query @ key.T / math.sqrt(HEAD_DIM)))


def test_performer_approaches_softmax_attention_as_features_grow() -> None:
    query, key, value = tensors(26, 26)
    # Scores are small, so that no single draw dominates the mean: the features are heavy-tailed.
    inputs = (query / 3, key / 3, value)
    exact = variants.create("full")(*inputs)
    errors = []
    for features in (64, 1024):
        total = 0.0
        for seed in range(4):
            attention = variants.create("performer", num_features=features, seed=seed)
            total += float((attention(*inputs) - exact).norm() / exact.norm())
        errors.append(total / 4)
    # The error decreases as one over the square root of the number, which grows 16 times.
    assert 3 < errors[0] / errors[1] < 5
    assert errors[1] < 0.03


# --- LSH

CHUNK = 4


def lsh(rounds: int, *, shared: bool = False, seed: int = 0, chunk: int = CHUNK) -> Any:
    return variants.create("lsh", bucket_size=chunk, num_hashes=rounds, shared_qk=shared, seed=seed)


def times_seen(
    query_bucket: list[int],
    key_bucket: list[int],
    shown: list[int],
    offset: int,
    chunk: int,
    causal: bool,
) -> list[Counter[int]]:
    """For each row of one head and round, the keys of its chunk and of the previous chunk.

    `shown` are the keys that are not padded. Without `causal` all of them are sorted by (bucket,
    position) and split into chunks; with `causal`, the keys of each bucket are.
    """
    rows = []
    for i, bucket in enumerate(query_bucket):
        position = max(i + offset, 0)
        lane = [j for j in shown if not causal or key_bucket[j] == bucket]
        lane.sort(key=lambda j: (key_bucket[j], j))
        place = sum((key_bucket[j], j) < (bucket, position) for j in lane)
        own = place // chunk
        rows.append(Counter(j for rank, j in enumerate(lane) if rank // chunk in (own - 1, own)))
    return rows


def lsh_by_loops(
    attention: Any, inputs: tuple[Tensor, Tensor, Tensor], causal: bool, padding: Tensor | None
) -> tuple[Tensor, Tensor]:
    query, key, value = inputs
    batch, heads, query_len, _ = query.shape
    key_len, rounds = key.shape[2], attention.num_hashes
    query_buckets, key_buckets = attention._hash(query, key, causal)
    assert query_buckets.shape == (batch, heads, rounds, query_len)
    assert key_buckets.shape == (batch, heads, rounds, key_len)
    weights = torch.zeros(batch, heads, query_len, key_len, dtype=torch.float64)
    for b in range(batch):
        shown = [j for j in range(key_len) if padding is None or not padding[b, j]]
        for h in range(heads):
            keys = key[b, h // (heads // key.shape[1])]
            if attention.shared_qk:
                keys = torch.stack([k / torch.sqrt(torch.dot(k, k)) for k in keys])
            seen = [Counter[int]() for _ in range(query_len)]
            for turn in range(rounds):
                found = times_seen(
                    query_buckets[b, h, turn].tolist(),
                    key_buckets[b, h, turn].tolist(),
                    shown,
                    key_len - query_len,
                    attention.bucket_size,
                    causal,
                )
                for total, once in zip(seen, found, strict=True):
                    total.update(once)
            for i, times in enumerate(seen):
                position = i + key_len - query_len
                for j, count in times.items():
                    if (causal and j > position) or (attention.shared_qk and j == position):
                        continue
                    score = torch.dot(query[b, h, i], keys[j]) / math.sqrt(HEAD_DIM)
                    weights[b, h, i, j] = count * torch.exp(score)
                total_weight = weights[b, h, i].sum()
                if total_weight > 0:
                    weights[b, h, i] /= total_weight
                elif position in shown:
                    weights[b, h, i, position] = 1.0  # no visible key: the output is its own value
    out = torch.zeros_like(query)
    for h in range(heads):
        out[:, h] = weights[:, h] @ value[:, h // (heads // key.shape[1])]
    return weights, out


@in_every_call
@at_every_length
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_lsh_is_softmax_over_chunks_weighted_by_the_number_of_rounds_that_show_a_key(
    shared: bool, rounds: int, query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    attention = lsh(rounds, shared=shared, chunk=2)
    inputs = tensors(query_len, key_len)
    padding = padding_of(key_len) if padded else None
    weights, out = lsh_by_loops(attention, inputs, causal, padding)
    call = {"causal": causal, "key_padding_mask": padding}
    assert_close(attention.weights(*inputs[:2], **call), weights)
    assert_close(attention(*inputs, **call), out)


@in_every_call
def test_shared_queries_and_keys_have_the_same_hash(causal: bool, padded: bool) -> None:
    """The form of the Reformer paper, where the query is the key: same definition, same buckets."""
    attention = lsh(2, shared=True)
    query, _, value = tensors(50, 50)
    query = query[:, ::2]
    query_buckets, key_buckets = attention._hash(query, query, causal)
    assert torch.equal(query_buckets, key_buckets)
    padding = padding_of(50) if padded else None
    inputs = (query, query, value)
    weights, out = lsh_by_loops(attention, inputs, causal, padding)
    call = {"causal": causal, "key_padding_mask": padding}
    assert_close(attention.weights(query, query, **call), weights)
    assert_close(attention(*inputs, **call), out)
    if not causal and not padded:
        assert not weights.diagonal(dim1=-2, dim2=-1).any(), "a token must not see itself"
    if causal:
        # The first token sees only itself, so the output is its own value.
        assert_close(out[1, :, 0], value[1, :, 0])


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_lsh_buckets_are_the_nearest_corners_of_random_rotations(chunk: int, causal: bool) -> None:
    """With several rotations a bucket is a number with one digit for each rotation, the first
    rotation first."""
    query, key, _ = tensors(600, 600)
    attention = lsh(2, chunk=chunk)
    rotations = attention._rotations(query, key, causal)
    buckets = attention._hash(query, key, causal)
    count = math.prod(2 * rotation.shape[-1] for rotation in rotations)
    wanted = 600 / chunk / (4 if causal else 1)
    assert wanted / 2 < count < 2 * wanted
    assert max(int(bucket.max()) for bucket in buckets) < count
    for x, bucket in zip((query, key), buckets, strict=True):
        for b, h, turn, i in ((0, 0, 0, 5), (1, 3, 1, 599), (1, 2, 0, 71), (0, 1, 1, 300)):
            expected = 0
            vector = x[b, h // (HEADS // x.shape[1]), i].float()
            for rotation in rotations:
                turned = vector @ rotation[h, turn]
                corners = [*turned.tolist(), *(-turned).tolist()]
                expected = expected * len(corners) + corners.index(max(corners))
            assert int(bucket[b, h, turn, i]) == expected


def test_lsh_rotations_differ_by_head_round_and_seed_and_are_gaussian() -> None:
    query, key, _ = tensors(600, 600)
    drawn = [lsh(2, seed=seed)._rotations(query, key, False) for seed in range(40)]
    matrices = [matrix for rotation in drawn for matrix in rotation[0].flatten(0, 1)]
    assert len({tuple(matrix.flatten().tolist()) for matrix in matrices}) == 40 * HEADS * 2
    numbers = torch.cat([part.flatten() for rotation in drawn for part in rotation]).double()
    assert_mean(numbers, 0.0)
    assert_mean(numbers**2, 1.0)
    assert_mean(numbers**4, 3.0)


def test_lsh_hashes_near_vectors_to_one_bucket_and_opposite_ones_to_different_buckets() -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(1, HEADS, 512, 16, generator=generator, dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    attention = lsh(4, chunk=8)

    def agreement(other: Tensor) -> float:
        first, second = attention._hash(x, other, causal=False)
        return float((first == second).double().mean())

    assert agreement(3 * x) == 1.0
    assert agreement(-x) == 0.0
    assert agreement(x + 0.1 * noise) > 0.8 > 0.5 > agreement(x + 0.5 * noise) > 0.3
    # Unrelated vectors have the same bucket of 64 by chance.
    pairs = 4 * HEADS * 512
    assert abs(agreement(noise) - 1 / 64) < 5 * math.sqrt(1 / 64 / pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lsh_buckets_are_those_of_the_same_numbers_in_float64(dtype: torch.dtype) -> None:
    query, key, _ = (x.to(dtype) for x in tensors(600, 600))
    attention = lsh(4)
    narrow = attention._hash(query, key, True)
    wide = attention._hash(query.double(), key.double(), True)
    for mine, right in zip(narrow, wide, strict=True):
        assert torch.equal(mine, right)


def test_causal_lsh_shows_the_nearest_earlier_keys_of_the_bucket() -> None:
    """A row sees at least `bucket_size` of them, or all if there are fewer, and no key of another
    bucket."""
    query, key, _ = tensors(300, 300)
    attention = lsh(1)
    query_buckets, key_buckets = attention._hash(query, key, True)
    assert len(query_buckets.unique()) > 4
    seen = attention.weights(query, key, causal=True) > 0
    full_chunks = 0
    for b in range(2):
        for h in range(HEADS):
            buckets = key_buckets[b, h, 0].tolist()
            for i in range(300):
                bucket = int(query_buckets[b, h, 0, i])
                earlier = [j for j in range(i) if buckets[j] == bucket]
                own = [i] if buckets[i] == bucket else []
                visible = seen[b, h, i].nonzero()[:, 0].tolist()
                if not earlier + own:
                    assert visible == [i]  # no key in its bucket: the key at its own position
                    continue
                assert set(earlier[-CHUNK:] + own) <= set(visible) <= set(earlier + own)
                full_chunks += len(visible) >= 2 * CHUNK - 1
    assert full_chunks > 100


def test_lsh_with_more_rounds_is_closer_to_softmax() -> None:
    inputs = tensors(300, 300)
    exact = variants.create("full")(*inputs)
    errors = []
    for rounds in (1, 4, 16):
        out = lsh(rounds, chunk=16)(*inputs)
        errors.append(float((out - exact).norm() / exact.norm()))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
