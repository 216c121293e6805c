"""Description of attention weights: closed forms, and the dense computation at every block size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.instruments import memory
from bench.instruments.accuracy import oracle
from bench.instruments.accuracy.description import Description, describe, mean_effective_keys
from variants.contract.definitions import expand_heads

NAMES = ("effective_keys", "sink_mass", "near_mass", "top64_mass", "logit_spread")


def described(
    query: Tensor, key: Tensor, *, causal: bool, rows: Tensor | None = None, **options: int
) -> Description:
    """By default all rows count equally."""
    rows = torch.arange(query.shape[2]) if rows is None else rows
    return describe(query, key, rows, torch.ones(len(rows)), causal=causal, **options)


def numbers(seen: Description) -> dict[str, float]:
    return {name: float(getattr(seen, name).mean()) for name in NAMES}


def scored(scores: Tensor) -> tuple[Tensor, Tensor]:
    """A query and keys of one channel with these scores (key_len,) in every row."""
    return torch.ones(1, 1, 1, 1, dtype=torch.float64), scores.double()[None, None, :, None]


class TestClosedForms:
    @pytest.mark.parametrize("length", [1, 50, 400])
    def test_with_equal_scores_every_visible_key_counts_equally(self, length: int) -> None:
        key = torch.randn(1, 1, length, 4, generator=torch.Generator().manual_seed(0))
        seen = numbers(described(torch.zeros(1, 1, length, 4), key, causal=False))
        positions = range(length)
        near = sum(sum(abs(i - j) <= 128 for j in positions) for i in positions) / length**2
        assert seen == pytest.approx(
            {
                "effective_keys": length,
                "sink_mass": 1 / length,
                "near_mass": near,
                "top64_mass": min(1, 64 / length),
                "logit_spread": 0,
            }
        )

    @pytest.mark.parametrize("length", [1, 50, 400])
    def test_with_equal_scores_every_earlier_key_counts_equally(self, length: int) -> None:
        key = torch.randn(1, 1, length, 4, generator=torch.Generator().manual_seed(0))
        seen = numbers(described(torch.zeros(1, 1, length, 4), key, causal=True))
        counts = [i + 1 for i in range(length)]
        assert seen == pytest.approx(
            {
                "effective_keys": (length + 1) / 2,
                "sink_mass": sum(1 / c for c in counts) / length,
                "near_mass": sum(min(c, 129) / c for c in counts) / length,
                "top64_mass": sum(min(c, 64) / c for c in counts) / length,
                "logit_spread": 0,
            }
        )

    @pytest.mark.parametrize(("taken", "sink"), [(0, 1), (7, 0)])
    def test_one_key_may_have_all_the_weight(self, taken: int, sink: int) -> None:
        scores = torch.zeros(300)
        scores[taken] = 800
        seen = numbers(described(*scored(scores), causal=False))
        # The query has position 299.
        spread = 800 * math.sqrt(299) / 300
        assert seen == pytest.approx(
            {
                "effective_keys": 1,
                "sink_mass": sink,
                "near_mass": 0,
                "top64_mass": 1,
                "logit_spread": spread,
            }
        )

    @pytest.mark.parametrize("pairs", [1, 37, 1 << 20])
    @pytest.mark.parametrize("count", [3, 100])
    @pytest.mark.parametrize("high", [2.5, -1.5, 40.0])
    def test_scores_of_two_levels(self, high: float, count: int, pairs: int) -> None:
        """The first `count` of 500 keys have one score, the others have score 0."""
        length = 500
        scores = torch.zeros(length)
        scores[:count] = high
        seen = numbers(described(*scored(scores), causal=False, pairs=pairs))
        total = count * math.exp(high) + length - count
        one, other = math.exp(high) / total, 1 / total
        entropy = -count * one * math.log(one) - (length - count) * other * math.log(other)
        best = sorted([one] * count + [other] * (length - count), reverse=True)[:64]
        share = count / length
        assert seen == pytest.approx(
            {
                "effective_keys": math.exp(entropy),
                "sink_mass": one,
                "near_mass": 129 * other,  # keys 371 to 499
                "top64_mass": sum(best),
                "logit_spread": abs(high) * math.sqrt(share * (1 - share)),
            },
            rel=1e-12,
        )

    def test_the_sink_is_the_key_at_position_0(self) -> None:
        """Key 0 has score 1 and key 1 has score 0: weight e / (1 + e), but all of the first row."""
        query = torch.ones(1, 1, 2, 1)
        key = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1)
        share = math.e / (1 + math.e)
        assert numbers(described(query, key, causal=False))["sink_mass"] == pytest.approx(share)
        seen = numbers(described(query, key, causal=True))["sink_mass"]
        assert seen == pytest.approx((1 + share) / 2)

    @pytest.mark.parametrize(
        ("seq_len", "key_len", "row", "near"),
        [
            (300, 300, 0, 129),  # keys 0 to 128
            (300, 300, 128, 257),  # keys 0 to 256
            (300, 300, 150, 257),
            (300, 300, 299, 129),
            (300, 300, 171, 257),
            (300, 300, 172, 256),
            (1, 300, 0, 129),  # the position of the only query is that of the last key
            (2, 300, 0, 130),
            (300, 100, 0, 0),  # 200 positions before the first key
            (300, 100, 71, 0),
            (300, 100, 72, 1),  # 128 positions before it
            (300, 100, 250, 100),
        ],
    )
    def test_near_is_a_distance_of_at_most_128(
        self, seq_len: int, key_len: int, row: int, near: int
    ) -> None:
        query, key = torch.zeros(1, 1, seq_len, 2), torch.zeros(1, 1, key_len, 2)
        seen = described(query, key, causal=False, rows=torch.tensor([row]))
        assert float(seen.near_mass) == pytest.approx(near / key_len)

    def test_rows_count_by_their_weights(self) -> None:
        query, key = torch.zeros(1, 1, 10, 2), torch.zeros(1, 1, 10, 2)
        rows, weights = torch.tensor([0, 4, 9]), torch.tensor([1.0, 5.0, 2.0])
        seen = describe(query, key, rows, weights, causal=True)
        assert float(seen.effective_keys) == pytest.approx((1 * 1 + 5 * 5 + 10 * 2) / 8)
        assert float(seen.sink_mass) == pytest.approx((1 + 5 / 5 + 2 / 10) / 8)

    def test_a_row_that_sees_no_key_is_excluded(self) -> None:
        query, key = torch.zeros(1, 2, 6, 4), torch.zeros(1, 1, 4, 4)
        seen = described(query, key, causal=True)
        assert seen.effective_keys.tolist() == [[pytest.approx((1 + 2 + 3 + 4) / 4)] * 2]
        assert all(getattr(seen, name).isfinite().all() for name in NAMES)
        none = described(query, key, causal=True, rows=torch.tensor([0, 1]))
        assert all(getattr(none, name).isnan().all() for name in NAMES)
        assert none.sink_mass.shape == (1, 2)
        assert mean_effective_keys(query, key, torch.arange(6), causal=True) == pytest.approx(2.5)
        assert math.isnan(mean_effective_keys(query, key, torch.arange(2), causal=True))


SHAPES = [(2, 4, 2, 150, 150), (1, 3, 3, 5, 200), (1, 2, 1, 100, 1), (1, 1, 1, 200, 150)]


def problem(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    batch, heads, kv_heads, queries, keys = shape
    generator = torch.Generator().manual_seed(0)
    query = 2 * torch.randn(batch, heads, queries, 8, generator=generator)
    return query, torch.randn(batch, kv_heads, keys, 8, generator=generator)


def dense(query: Tensor, key: Tensor, rows: Tensor, weights: Tensor, *, causal: bool) -> Tensor:
    """(5, batch, heads), from the matrix of all weights, row by row."""
    query, key = query.double(), expand_heads(key.double(), query.shape[1])
    found = []
    for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
        position = row + key.shape[2] - query.shape[2]
        seen = position + 1 if causal else key.shape[2]
        if seen < 1:
            continue
        scores = (query[:, :, row, None] * key[:, :, :seen]).sum(-1) / math.sqrt(query.shape[-1])
        p = torch.softmax(scores, dim=-1)
        near = [j for j in range(seen) if abs(j - position) <= 128]
        each = [
            torch.distributions.Categorical(probs=p).entropy().exp(),
            p[..., 0],
            p[..., near].sum(-1),
            p.sort(dim=-1, descending=True).values[..., :64].sum(-1),
            scores.std(dim=-1, correction=0),
        ]
        found.append((weight, torch.stack(each)))
    total = sum(weight for weight, _ in found)
    return torch.stack([weight / total * each for weight, each in found]).sum(0)


@pytest.mark.parametrize("pairs", [1, 70 * 24, 1 << 20])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_dense_computation(shape: tuple[int, ...], causal: bool, pairs: int) -> None:
    query, key = problem(shape)
    rows = torch.arange(0, query.shape[2], 3)
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(1))
    seen = describe(query, key, rows, weights, causal=causal, pairs=pairs)
    expected = dense(query, key, rows, weights, causal=causal)
    for name, each in zip(NAMES, expected, strict=True):
        got = getattr(seen, name)
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, each, rtol=1e-9, atol=1e-11)
    plain = dense(query, key, rows, torch.ones(len(rows)), causal=causal)[0].mean()
    got = mean_effective_keys(query, key, rows, causal=causal, pairs=pairs)
    assert got == pytest.approx(float(plain), rel=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_precomputed_totals_give_the_same_result(causal: bool) -> None:
    query, key = problem((1, 4, 2, 60, 50))
    rows, weights = torch.arange(0, 60, 7), torch.arange(9) + 1.0
    total = oracle.exact(query, key, key, rows, causal=causal).log_total
    own = describe(query, key, rows, weights, causal=causal)
    given = describe(query, key, rows, weights, causal=causal, log_total=total)
    for name in NAMES:
        torch.testing.assert_close(getattr(own, name), getattr(given, name), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [1e3, 1e-3])
def test_scores_of_any_size_give_finite_results(size: float) -> None:
    query, key = problem((1, 2, 2, 70, 90))
    rows = torch.arange(70)
    seen = described(query * size, key, causal=True, pairs=512)
    expected = dense(query * size, key, rows, torch.ones(70), causal=True)
    for name, each in zip(NAMES, expected, strict=True):
        torch.testing.assert_close(getattr(seen, name), each, rtol=1e-8, atol=1e-10)


def test_memory_depends_only_on_rows_and_block_size() -> None:
    def peak(length: int) -> int:
        query, key = (torch.randn(1, 2, length, 16) for _ in range(2))
        rows = torch.arange(8)
        call = lambda: described(query, key, causal=False, rows=rows, pairs=1 << 12)  # noqa: E731
        return memory.peak_bytes(call, torch.device("cpu"))

    assert peak(16384) <= peak(1024) * 1.01
