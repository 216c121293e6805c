"""Sampled rows, and the estimates for all rows that are made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor

import variants
from bench.instruments.accuracy import oracle
from bench.instruments.accuracy.sampled_rows import (
    LEAST_ROWS,
    PAIRS,
    PER_STRATUM,
    Sample,
    last_rows,
    mean,
    median,
    relative_error,
    sample_rows,
)

ALL = LEAST_ROWS
STRATA = LEAST_ROWS // PER_STRATUM
MANY = PAIRS  # so many heads that the smallest number of rows is sampled


class TestSampledRows:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("length", [1, 2, ALL - 1, ALL])
    def test_all_rows_are_taken_if_they_are_few(self, length: int, causal: bool) -> None:
        sample = sample_rows(length, length, heads=MANY, causal=causal)
        assert sample.rows.tolist() == list(range(length))
        assert sample.weights.tolist() == [1.0] * length

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("length", [ALL + 1, 300, 1023, 1_000_003])
    def test_rows_are_distinct_sorted_and_represent_all_rows(
        self, length: int, causal: bool
    ) -> None:
        sample = sample_rows(length, length, heads=MANY, causal=causal)
        assert 0.7 * ALL <= len(sample.rows) <= ALL
        assert (sample.rows.diff() > 0).all()
        assert sample.rows.min() >= 0
        assert sample.rows.max() < length
        assert float(sample.weights.sum()) == length

    @pytest.mark.parametrize("stretch", [2, 3, 16, 1000])
    def test_two_rows_are_drawn_from_each_stratum(self, stretch: int) -> None:
        sample = sample_rows(STRATA * stretch, STRATA * stretch, heads=MANY, causal=False)
        expected = torch.arange(STRATA).repeat_interleave(2)
        if stretch == 2:
            assert torch.equal(sample.rows, torch.arange(ALL))
        else:
            assert torch.equal(sample.rows // stretch, expected)
            assert torch.equal(sample.strata, expected)
            assert (sample.weights == stretch / 2).all()

    def test_causal_rows_are_denser_near_the_first_row(self) -> None:
        sample = sample_rows(1 << 16, 1 << 16, heads=MANY, causal=True)
        assert (sample.rows < 1 << 8).sum() > ALL / 5
        assert (sample.rows >= 1 << 15).sum() > ALL / 5

    def test_with_many_earlier_keys_all_rows_have_similar_weights(self) -> None:
        sample = sample_rows(4096, 1 << 20, heads=MANY, causal=True)
        assert sample.weights.max() / sample.weights.min() < 1.2

    @pytest.mark.parametrize("heads", [1, 8])
    def test_more_rows_are_taken_if_they_are_cheap(self, heads: int) -> None:
        whole = int(math.sqrt(PAIRS / heads))
        assert len(sample_rows(whole, whole, heads=heads, causal=True).rows) == whole
        for length in (2 * whole, 4 * whole):
            sample = sample_rows(length, length, heads=heads, causal=False)
            assert PAIRS * 0.98 <= len(sample.rows) * heads * length <= PAIRS
            assert float(sample.weights.sum()) == length

    def test_rows_are_drawn_uniformly_from_their_stratum(self) -> None:
        length = STRATA * 10
        drawn = [
            sample_rows(length, length, heads=MANY, causal=False, seed=seed).rows
            for seed in range(20)
        ]
        offsets = torch.cat(drawn) % 10
        assert torch.bincount(offsets, minlength=10).min() > 0.7 * len(offsets) / 10

    def test_rows_do_not_depend_on_the_global_seed(self) -> None:
        torch.manual_seed(1)
        first = sample_rows(1000, 1000, heads=MANY, causal=True)
        torch.manual_seed(2)
        assert torch.equal(first.rows, sample_rows(1000, 1000, heads=MANY, causal=True).rows)
        assert not torch.equal(
            first.rows, sample_rows(1000, 1000, heads=MANY, causal=True, seed=1).rows
        )


class TestTotals:
    def test_means_and_medians_use_the_weight_of_each_row(self) -> None:
        sample = Sample(torch.arange(3), torch.tensor([1.0, 1.0, 8.0]).double(), torch.arange(3))
        values = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]]).double()
        torch.testing.assert_close(mean(values, sample), torch.tensor([3.5, 2.4]).double())
        counted = torch.tensor([True, True, False])
        torch.testing.assert_close(mean(values, sample, counted), torch.tensor([1.5, 0.0]).double())
        assert median(values, sample) == 3.0
        assert median(values[0], sample) == 4.0
        even = Sample(torch.arange(5), torch.ones(5).double(), torch.arange(5))
        assert median(torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]).double(), even) == 3.0

    def test_a_row_that_is_not_counted_may_be_nan(self) -> None:
        sample = Sample(torch.arange(2), torch.ones(2).double(), torch.arange(2))
        values = torch.tensor([2.0, math.nan]).double()
        assert float(mean(values, sample, torch.tensor([True, False]))) == 2.0

    def test_the_variance_has_the_finite_population_correction(self) -> None:
        """Two rows of three: a third of the variance of two rows of very many."""
        strata = torch.arange(20).repeat_interleave(2)
        taken = Sample(torch.arange(40), torch.full((40,), 1.5).double(), strata)
        endless = Sample(taken.rows, taken.weights, strata, whole=False)
        wrong, size = torch.rand(40).double(), torch.ones(40).double()
        error, _, high = relative_error(wrong, size, taken)
        _, _, higher = relative_error(wrong, size, endless)
        ratio = math.log(high / error) / math.log(higher / error)
        assert ratio == pytest.approx(math.sqrt(1 / 3), rel=1e-9)

    def test_an_error_of_all_rows_has_no_interval(self) -> None:
        sample = sample_rows(100, 100, heads=MANY, causal=True)
        wrong = torch.linspace(0, 1, 100, dtype=torch.float64)
        size = torch.full((100,), 4.0, dtype=torch.float64)
        expected = math.sqrt(50 / 400)
        assert relative_error(wrong, size, sample) == pytest.approx((expected,) * 3, rel=1e-12)

    def test_an_error_of_sampled_rows_has_an_interval(self) -> None:
        wrong = torch.linspace(0, 1, 100, dtype=torch.float64)
        size = torch.full((100,), 4.0, dtype=torch.float64)
        error, low, high = relative_error(wrong, size, last_rows(torch.arange(100)))
        # The mean of 100 uniform numbers has a deviation of 1/sqrt(1200); t of 99 is 1.984.
        reach = 1.984 * math.sqrt(1 / 1200) / 0.5 / 2
        assert math.log(high / error) == pytest.approx(reach, rel=0.02)
        assert math.log(error / low) == pytest.approx(reach, rel=0.02)

    def test_the_intervals_of_zero_error_and_of_zero_size(self) -> None:
        sample = sample_rows(1000, 1000, heads=MANY, causal=False)
        none, some = torch.zeros(ALL).double(), torch.ones(ALL).double()
        assert relative_error(none, some, sample) == (0.0, 0.0, 0.0)
        assert relative_error(none, none, sample) == (0.0, 0.0, 0.0)
        assert relative_error(some, none, sample) == (math.inf,) * 3
        assert all(map(math.isnan, relative_error(some * math.nan, some, sample)))
        assert relative_error(some * math.inf, some, sample) == (math.inf,) * 3


METHODS: Mapping[str, Mapping[str, object]] = {
    "sliding_window": {"window_size": 64},
    "bigbird": {"block_size": 16, "num_random_blocks": 1},
    "linear": {},
    "lsh": {"num_hashes": 2},
    "top_k": {"top_k": 16},
}
TOKENS = 1024


@cache
def squares(name: str, causal: bool, kind: str) -> tuple[Tensor, Tensor]:
    """Squared errors and norms of all rows of two heads. With `peaked`, few keys count and the
    first key has half of the mass."""
    generator = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(1, 2, TOKENS, 16, generator=generator) for _ in range(3))
    if kind == "peaked":
        query = query * 3
        query[..., 0] = 12.0
        key[:, :, 0, 0], value[:, :, 0] = 4.0, 0.1
    with torch.no_grad():
        out = variants.create(name, **METHODS[name])(query, key, value, causal=causal)
    exact = oracle.exact(query, key, value, torch.arange(TOKENS), causal=causal).out
    return (out.double() - exact).square().sum((0, 1, 3)), exact.square().sum((0, 1, 3))


@cache
def samples(causal: bool) -> list[Sample]:
    """400 samples of the rows."""
    return [
        sample_rows(TOKENS, TOKENS, heads=MANY, causal=causal, seed=seed) for seed in range(400)
    ]


@pytest.mark.parametrize("kind", ["noise", "peaked"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_interval_covers_the_error_of_the_full_matrix_at_its_rate(
    name: str, causal: bool, kind: str
) -> None:
    """The nominal rate is 95 %. By chance 368 to 398 of 400 samples cover the error, at four
    standard deviations. If a few rows have most of the error, a sample of an eighth of the rows is
    barely enough."""
    wrong, size = squares(name, causal, kind)
    whole = math.sqrt(float(wrong.sum() / size.sum()))
    hits, widths = 0, []
    for sample in samples(causal):
        _, low, high = relative_error(wrong[sample.rows], size[sample.rows], sample)
        hits += low <= whole <= high
        widths.append((high - low) / whole)
    assert hits / 400 >= 0.92, (hits / 400, whole)
    assert sum(widths) / 400 < 0.6


def test_the_estimate_is_right_on_average() -> None:
    wrong, size = squares("sliding_window", True, "peaked")
    whole = float(wrong.sum() / size.sum())
    found = [
        relative_error(wrong[sample.rows], size[sample.rows], sample)[0] ** 2
        for sample in samples(True)
    ]
    off = torch.tensor(found, dtype=torch.float64) / whole - 1
    assert abs(float(off.mean())) < 4 * float(off.std()) / 20 + 0.01
