"""Accuracy: sampled rows, the error and its interval, mass recall, and the detection of bugs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import variants
from bench.instruments import accuracy
from bench.instruments.accuracy import ROUNDING, MeasuredAccuracy, Reference, last_rows, sample_rows
from bench.instruments.accuracy.sampled_rows import PAIRS
from variants import Attention

pytestmark = pytest.mark.usefixtures("fresh")


def problem(
    seed: int = 0, *, heads: int = 4, kv_heads: int = 2, tokens: int = 48, dim: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in float64, of two sequences."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(  # type: ignore[return-value]
        torch.randn(2, count, tokens, dim, generator=generator, dtype=torch.float64)
        for count in (heads, kv_heads, kv_heads)
    )


def by_hand(query: Tensor, key: Tensor, *, causal: bool) -> Tensor:
    """Exact weights (batch, heads, queries, keys), computed row by row."""
    batch, heads, rows, dim = query.shape
    group, keys = heads // key.shape[1], key.shape[2]
    weights = torch.zeros(batch, heads, rows, keys, dtype=torch.float64)
    for b in range(batch):
        for head in range(heads):
            for row in range(rows):
                seen = row + 1 + keys - rows if causal else keys
                scores = key[b, head // group, :seen] @ query[b, head, row] / math.sqrt(dim)
                weights[b, head, row, :seen] = scores.exp() / scores.exp().sum()
    return weights


def output(weights: Tensor, value: Tensor) -> Tensor:
    return weights @ value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)


def refer(
    tensors: tuple[Tensor, Tensor, Tensor], *, causal: bool = False, rows: Tensor | None = None
) -> Reference:
    query, key, value = tensors
    # PAIRS heads, so that the smallest number of rows is sampled.
    sample = sample_rows(query.shape[2], key.shape[2], causal=causal, heads=PAIRS)
    sample = sample if rows is None else last_rows(rows)
    return Reference.of(query, key, value, sample, causal=causal)


def judge(
    attention: Attention,
    tensors: tuple[Tensor, Tensor, Tensor],
    *,
    causal: bool = False,
    out: Tensor | None = None,
    affordable_keys: float | None = None,
) -> MeasuredAccuracy:
    reference = refer(tensors, causal=causal)
    out = attention(*tensors, causal=causal) if out is None else out
    return accuracy.measure(
        attention, reference, out[:, :, reference.sample.rows], affordable_keys=affordable_keys
    )


WINDOW = variants.create("sliding_window", window_size=5)


class TestError:
    @pytest.mark.parametrize("causal", [False, True])
    def test_the_error_equals_the_full_error_by_hand_if_all_rows_are_sampled(
        self, causal: bool
    ) -> None:
        query, key, value = problem()
        out = WINDOW(query, key, value, causal=causal)
        exact = output(by_hand(query, key, causal=causal), value)
        seen = judge(WINDOW, (query, key, value), causal=causal)
        assert seen.oracle_rows == 48
        assert seen.approx_error_rel_l2 == pytest.approx(
            float((out - exact).norm() / exact.norm()), rel=1e-12
        )
        cosine = (out * exact).sum(-1) / out.norm(dim=-1) / exact.norm(dim=-1)
        assert seen.approx_cosine == pytest.approx(float(cosine.mean()), rel=1e-12)
        assert 0.05 < seen.approx_error_rel_l2 < 2

    def test_a_sampled_row_has_the_weight_of_the_rows_that_it_represents(self) -> None:
        query, key, value = problem(tokens=400)
        out = WINDOW(query, key, value, causal=True)
        sample = sample_rows(400, 400, causal=True, heads=PAIRS)
        exact = output(by_hand(query, key, causal=True), value)[:, :, sample.rows]
        seen = judge(WINDOW, (query, key, value), causal=True)
        assert seen.oracle_rows == len(sample.rows) < 140
        assert sample.weights.max() > 3 * sample.weights.min()
        wrong, size = (
            float((x.square().sum((0, 1, 3)) * sample.weights).sum())
            for x in (out[:, :, sample.rows] - exact, exact)
        )
        assert seen.approx_error_rel_l2 == pytest.approx(math.sqrt(wrong / size), rel=1e-12)

    def test_an_output_of_zeros_has_error_one(self) -> None:
        query, key, value = problem(tokens=200)
        seen = judge(WINDOW, (query, key, value), out=torch.zeros_like(query))
        assert seen.approx_error_rel_l2 == 1.0
        assert (seen.approx_error_low, seen.approx_error_high) == (1.0, 1.0)

    def test_the_exact_answer_has_only_a_rounding_error(self) -> None:
        query, key, value = problem()
        exact = output(by_hand(query, key, causal=True), value)
        seen = judge(WINDOW, (query, key, value), causal=True, out=exact)
        assert seen.approx_error_rel_l2 < 1e-14
        assert seen.approx_error_low <= seen.approx_error_rel_l2 <= seen.approx_error_high
        assert seen.approx_cosine == pytest.approx(1, rel=1e-12)

    def test_heads_and_sequences_count_by_the_size_of_their_values(self) -> None:
        """All of one sequence of two is wrong, and its values are three times as large."""
        query, key, value = problem()
        value = value.clone()
        value[1] *= 3
        exact = output(by_hand(query, key, causal=False), value)
        out = exact.clone()
        out[1] = 0
        expected = float(exact[1].norm() / exact.norm())
        assert judge(WINDOW, (query, key, value), out=out).approx_error_rel_l2 == pytest.approx(
            expected, rel=1e-12
        )

    def test_the_error_is_the_same_when_keys_precede_the_queries(self) -> None:
        query, key, value = problem()
        query = query[:, :, -7:]
        exact = output(by_hand(query, key, causal=True), value)
        full = variants.create("full")
        seen = judge(full, (query, key, value), causal=True)
        assert seen.oracle_rows == 7
        assert seen.approx_error_rel_l2 < 1e-14
        shifted = judge(full, (query, key, value), causal=True, out=exact.roll(1, 2))
        assert shifted.approx_error_rel_l2 > 0.5

    def test_where_the_exact_answer_is_zero_only_zero_is_right(self) -> None:
        query, key, value = problem()
        nothing = (query, key, torch.zeros_like(value))
        seen = judge(WINDOW, nothing)
        assert (seen.approx_error_rel_l2, seen.approx_error_low, seen.approx_error_high) == (
            0,
            0,
            0,
        )
        seen = judge(WINDOW, nothing, out=torch.ones_like(query))
        assert seen.approx_error_rel_l2 == math.inf

    def test_rows_that_see_no_key_leave_the_interval_finite(self) -> None:
        """All but three queries precede the first key, and most bootstrap samples contain only such
        rows."""
        query, key, value = problem()
        seen = judge(WINDOW, (query, key[:, :, :3], value[:, :, :3]), causal=True)
        assert 0 <= seen.approx_error_low <= seen.approx_error_rel_l2 <= seen.approx_error_high
        assert seen.approx_error_high < 1e-10

    def test_the_error_of_an_output_of_nan_is_nan(self) -> None:
        query, key, value = problem()
        seen = judge(WINDOW, (query, key, value), out=torch.full_like(query, math.nan))
        assert math.isnan(seen.approx_error_rel_l2)

    def test_a_row_with_an_exact_answer_of_zero_has_error_zero_or_infinity(self) -> None:
        query, key, value = problem()
        value = value.clone()
        value[0, 0] = 0  # read by two of the heads
        exact = output(by_hand(query, key, causal=False), value)
        seen = judge(WINDOW, (query, key, value), out=exact * 1.25)
        assert seen.approx_error_worst_row == pytest.approx(0.25)
        assert seen.approx_error_median_row == pytest.approx(0.25)
        wrong = exact * 1.25
        wrong[0, 0, 3] = 1
        assert judge(WINDOW, (query, key, value), out=wrong).approx_error_worst_row == math.inf
        nothing = judge(WINDOW, (query, key, value * 0), out=exact * 0)
        assert nothing.approx_error_worst_row == nothing.approx_error_median_row == 0

    def test_the_interval_is_the_same_every_time(self) -> None:
        tensors = problem(tokens=200)
        torch.manual_seed(1)
        first = judge(WINDOW, tensors)
        torch.manual_seed(2)
        assert judge(WINDOW, tensors) == first
        assert first.approx_error_low < first.approx_error_rel_l2 < first.approx_error_high


class TestMassRecall:
    @pytest.mark.parametrize("causal", [False, True])
    def test_mass_recall_of_a_window_is_the_exact_mass_inside_it(self, causal: bool) -> None:
        query, key, value = problem()
        weights = by_hand(query, key, causal=causal)
        positions = torch.arange(48)
        outside = (positions[:, None] - positions).abs() > 5
        expected = float(weights.masked_fill(outside, 0).sum(-1).mean())
        recall = judge(WINDOW, (query, key, value), causal=causal).mass_recall
        assert recall == pytest.approx(expected, rel=1e-12)
        assert 0.1 < expected < 0.9

    def test_mass_recall_of_a_window_is_one_minus_the_total_variation(self) -> None:
        """The window renormalises the weights inside it, so its total variation is the exact mass
        outside."""
        query, key, value = problem(tokens=120)
        own = WINDOW.weights(query, key)
        exact = by_hand(query, key, causal=False)
        variation = float((own - exact).abs().sum(-1).mean() / 2)
        seen = judge(WINDOW, (query, key, value))
        assert seen.total_variation == pytest.approx(variation, rel=1e-12)
        assert seen.mass_recall == pytest.approx(1 - variation, rel=1e-12)

    def test_mass_recall_of_a_window_over_all_keys_is_one(self) -> None:
        everything = variants.create("sliding_window", window_size=48)
        assert judge(everything, problem()).mass_recall == pytest.approx(1, rel=1e-12)

    @pytest.mark.parametrize("name", ["linear", "performer", "full"])
    def test_mass_recall_is_none_if_every_key_is_visible(self, name: str) -> None:
        assert judge(variants.create(name), problem()).mass_recall is None


class TestImplementationError:
    @pytest.mark.parametrize("dtype", sorted(ROUNDING))
    @pytest.mark.parametrize("name", sorted(variants.REGISTRY))
    def test_the_implementation_error_of_every_variant_is_rounding(
        self, name: str, dtype: str
    ) -> None:
        query, key, value = (x.to(getattr(torch, dtype)) for x in problem(tokens=70))
        attention = variants.create(name)
        for causal in attention.info.causal_choices:
            seen = judge(attention, (query, key, value), causal=causal)
            assert seen.impl_error_rel_l2 <= ROUNDING[dtype]

    @pytest.mark.parametrize("dtype", sorted(ROUNDING))
    def test_the_implementation_error_of_a_window_off_by_one_is_large(self, dtype: str) -> None:
        query, key, value = (x.to(getattr(torch, dtype)) for x in problem(tokens=70))
        out = replace(WINDOW, window_size=4)(query, key, value)
        assert judge(WINDOW, (query, key, value), out=out).impl_error_rel_l2 > 2 * ROUNDING[dtype]

    def test_the_implementation_error_excludes_the_approximation_error(self) -> None:
        seen = judge(replace(WINDOW, window_size=0), problem())
        assert seen.impl_error_rel_l2 < 1e-14
        assert seen.approx_error_rel_l2 > 0.5

    def test_the_implementation_error_of_an_output_of_nan_is_not_small(self) -> None:
        query, key, value = problem()
        out = WINDOW(query, key, value)
        out[0, 0, 3, 2] = math.nan
        seen = judge(WINDOW, (query, key, value), out=out)
        assert not seen.impl_error_rel_l2 <= 1e300

    def test_shared_keys_give_a_small_implementation_error_and_a_large_approximation_error(
        self,
    ) -> None:
        """Reformer uses the queries as keys: correct by its own definition, wrong as an
        approximation of softmax attention."""
        query, key, value = problem(kv_heads=4)
        shared = variants.create("lsh", shared_qk=True, bucket_size=8)
        out = shared(query, query, value)
        seen = accuracy.measure(shared, refer((query, key, value)), out, shared_qk=True)
        assert seen.impl_error_rel_l2 < 1e-12
        exact = output(by_hand(query, key, causal=False), value)
        assert seen.approx_error_rel_l2 == pytest.approx(
            float((out - exact).norm() / exact.norm()), rel=1e-12
        )

    def test_measuring_leaves_the_tensors_and_the_gradient_unchanged(self) -> None:
        query, key, value = problem()
        query.requires_grad_()
        out = WINDOW(query, key, value)
        before = out.detach().clone()
        judge(WINDOW, (query, key, value), out=out)
        assert torch.equal(out, before)
        assert query.grad is None


def test_rows_that_see_no_key_leave_the_interval_a_number() -> None:
    """More queries than keys, causal: nearly all rows are 0, in the exact answer too."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 2, 64, 8, generator=generator)
    key, value = (torch.randn(1, 2, 2, 8, generator=generator) for _ in range(2))
    attention = variants.create("linear")
    out = attention(query, key, value, causal=True)
    seen = judge(attention, (query, key, value), causal=True, out=out)
    assert seen.approx_error_low <= seen.approx_error_rel_l2 <= seen.approx_error_high
    some = judge(attention, (query[:, :, :8], key, value), causal=True)
    assert some.approx_error_rel_l2 >= 0
