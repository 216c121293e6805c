"""Reference values for errors: the mean of the values, random keys, the best keys, the dtype."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import variants
from bench.instruments import accuracy
from bench.instruments.accuracy import Reference, sample_rows, weights
from bench.instruments.accuracy.weights import Weighed
from variants.contract.call import Call
from variants.contract.definitions import expand_heads, softmax_weights

Tensors = tuple[Tensor, Tensor, Tensor]


def problem(queries: int = 40, keys: int = 40, dtype: torch.dtype = torch.float64) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    return tuple(  # type: ignore[return-value]
        torch.randn(2, heads, tokens, 8, generator=generator, dtype=torch.float64).to(dtype) * size
        for heads, tokens, size in ((4, queries, 2), (2, keys, 1), (2, keys, 1))
    )


def refer(tensors: Tensors, causal: bool) -> Reference:
    query, key, value = tensors
    sample = sample_rows(query.shape[2], key.shape[2], causal=causal)
    return Reference.of(query, key, value, sample, causal=causal)


def dense(tensors: Tensors, causal: bool) -> Tensor:
    query, key, _ = (x.double() for x in tensors)
    rows = torch.arange(query.shape[2])
    return softmax_weights(query, key, rows, Call(causal=causal, scale=1 / math.sqrt(8)))


def error_of(own: Tensor, exact: Tensor, value: Tensor) -> float:
    values = expand_heads(value.double(), own.shape[1])
    return float((own @ values - exact @ values).norm() / (exact @ values).norm())


@pytest.mark.parametrize("shape", [(40, 40), (40, 64), (40, 12)])
@pytest.mark.parametrize("causal", [False, True])
class TestBaselines:
    def test_the_mean_of_the_values_includes_only_visible_keys(
        self, shape: tuple[int, int], causal: bool
    ) -> None:
        tensors = problem(*shape)
        exact = dense(tensors, causal)
        seen = (exact > 0).double()
        even = seen / seen.sum(-1, keepdim=True).clamp(min=1)
        found = refer(tensors, causal).mean_value_error()
        assert found == pytest.approx(error_of(even, exact, tensors[2]), rel=1e-12)

    @pytest.mark.parametrize("count", [1, 5, 1000])
    def test_the_best_keys_are_those_with_the_largest_weights(
        self, shape: tuple[int, int], causal: bool, count: int
    ) -> None:
        tensors = problem(*shape)
        exact = dense(tensors, causal)
        order = exact.argsort(-1, descending=True).argsort(-1)
        kept = exact.masked_fill(order >= count, 0)
        kept = kept / kept.sum(-1, keepdim=True).clamp(min=1e-300)
        reference = refer(tensors, causal)
        keys = torch.minimum(torch.tensor(count), reference.visible_keys).expand(exact.shape[:3])
        _, found = weights.baselines(reference, keys)
        assert found == pytest.approx(error_of(kept, exact, tensors[2]), rel=1e-9, abs=1e-14)

    def test_random_keys_are_visible_and_have_the_given_number(
        self, shape: tuple[int, int], causal: bool
    ) -> None:
        """Values are unit vectors, so each output shows the weights of its row."""
        query, key, _ = problem(*shape)
        value = torch.eye(shape[1], dtype=torch.float64).expand(2, 2, -1, -1)
        reference = refer((query, key, value), causal)
        keys = torch.randint(1, 9, (2, 4, shape[0]), generator=torch.Generator().manual_seed(0))
        keys = torch.minimum(keys, reference.visible_keys)
        outs: list[Tensor] = []
        object.__setattr__(reference, "error", lambda out: (outs.append(out), (0.0,))[1])
        weights.baselines(reference, keys)
        chosen, best = outs
        exact = dense((query, key, value), causal)
        for out in (chosen, best):
            assert torch.equal((out > 0).sum(-1), keys)
            assert not (out[exact == 0] > 0).any()
            given = out.sum(-1)[keys > 0]
            torch.testing.assert_close(given, torch.ones_like(given))
        if shape[1] > 20:
            assert (chosen > 0).any(1).sum() > (best > 0).any(1).sum() / 4
            assert not torch.equal(chosen > 0, best > 0)


def test_the_number_of_rows_at_a_time_does_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = problem()
    attention = variants.create("lsh", bucket_size=8)
    reference = refer(tensors, True)
    whole = weights.weigh(attention, reference)
    keys = weights.budget(reference, whole, 100.0)
    best = weights.baselines(reference, keys)[1]
    monkeypatch.setattr(weights, "PAIRS", 3 * 8 * 40)
    monkeypatch.setattr(weights.oracle, "PAIRS", 3 * 8 * 40)
    parts = weights.weigh(attention, reference)
    for name, value in vars(whole).items():
        if value is not None:
            torch.testing.assert_close(getattr(parts, name), value)
    assert weights.baselines(reference, keys)[1] == pytest.approx(best, rel=1e-12)


class TestBudget:
    def weighed(self, seen: Tensor) -> Weighed:
        return Weighed(seen, seen, seen, seen, seen, None)

    def test_the_budget_of_a_row_is_the_number_of_keys_it_sees_up_to_the_limit(self) -> None:
        reference = refer(problem(), True)
        seen = torch.arange(1, 41).clamp(max=7).double().expand(2, 4, 40)
        assert torch.equal(weights.budget(reference, self.weighed(seen), 20.0), seen.long())

    def test_the_budget_is_limited_by_the_keys_that_its_operations_could_read(self) -> None:
        reference = refer(problem(), True)
        seen = torch.arange(1, 41).double().expand(2, 4, 40)
        found = weights.budget(reference, self.weighed(seen), 5.4)
        assert torch.equal(found, torch.arange(1, 41).clamp(max=5).expand(2, 4, 40))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_floor_of_a_dtype_is_close_to_its_rounding(dtype: torch.dtype, causal: bool) -> None:
    found = refer(problem(dtype=dtype), causal).dtype_floor()
    assert found is not None
    assert torch.finfo(dtype).eps / 30 < found < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("causal", [False, True])
def test_the_floor_equals_the_error_of_a_whole_call_of_sdpa(causal: bool) -> None:
    query, key, value = problem(300, 300, dtype=torch.float32)
    reference = refer((query, key, value), causal)
    out = scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)
    expected = reference.error(out[:, :, reference.sample.rows])[0]
    assert reference.dtype_floor() == pytest.approx(expected, rel=0.05)


def test_the_floor_of_one_row_equals_the_floor_of_the_kernel_for_many_rows() -> None:
    """SDPA has another kernel for one query, which sums long rows less accurately."""
    generator = torch.Generator().manual_seed(0)
    query = torch.zeros(1, 1, 1, 16)
    key, value = (torch.randn(1, 1, 1 << 18, 16, generator=generator) + 1 for _ in range(2))
    alone = refer((query, key, value), True).dtype_floor()
    together = refer((query.expand(1, 1, 8, 16), key, value), True).dtype_floor()
    assert alone == pytest.approx(together, rel=0.5)


def test_the_floor_of_float64_is_almost_zero() -> None:
    found = refer(problem(), True).dtype_floor()
    assert found is not None
    assert found < 1e-14


def test_top64_recall_is_the_share_of_the_best_keys_that_is_visible() -> None:
    """A window of 5 sees up to 11 keys; for a window of 100, the best 64 keys count."""
    tensors = problem(100, 100)
    window = variants.create("sliding_window", window_size=5)
    exact = dense(tensors, False)
    top = exact.topk(64).indices
    near = (top - torch.arange(100)[:, None]).abs() <= 5
    reference = refer(tensors, False)
    out = window(*tensors)
    seen = accuracy.measure(window, reference, out)
    assert seen.top64_recall == pytest.approx(float(near.double().mean()), rel=1e-12)


def test_top64_recall_counts_only_visible_keys() -> None:
    everything = variants.create("sliding_window", window_size=100)
    reference = refer(problem(50, 50), True)
    seen = accuracy.measure(everything, reference, everything(*problem(50, 50), causal=True))
    assert seen.top64_recall == 1.0


def test_top64_recall_counts_only_keys_with_weight() -> None:
    """In very peaked rows all weights but a few are zero in floating point."""
    query, key, value = problem(100, 100)
    query = query * 1e4
    everything = variants.create("sliding_window", window_size=100)
    reference = refer((query, key, value), False)
    seen = accuracy.measure(everything, reference, everything(query, key, value))
    assert seen.top64_recall == 1.0
    window = variants.create("sliding_window", window_size=5)
    seen = accuracy.measure(window, reference, window(query, key, value))
    weights = dense((query, key, value), False)
    positions = torch.arange(100)
    near = (positions[:, None] - positions).abs() <= 5
    found = ((weights > 0) & near).sum(-1) / (weights > 0).sum(-1).clamp(max=64)
    assert seen.top64_recall == pytest.approx(float(found.double().mean()), rel=1e-6)


class TestRows:
    def test_the_errors_of_the_worst_and_the_median_row(self) -> None:
        tensors = problem()
        reference = refer(tensors, True)
        out = reference.exact.out.clone()
        out[1, 2, 7] *= 4
        out[0, :, 9] *= 1.5
        seen = accuracy.measure(variants.create("full"), reference, out)
        assert seen.approx_error_worst_row == pytest.approx(3, rel=1e-9)
        assert seen.approx_error_median_row < 1e-12
        out = reference.exact.out * 1.25
        seen = accuracy.measure(variants.create("full"), reference, out)
        assert seen.approx_error_median_row == pytest.approx(0.25, rel=1e-9)

    def test_rows_that_see_no_key_do_not_change_the_results(self) -> None:
        tensors = problem(40, 12)
        window = variants.create("sliding_window", window_size=3)
        seen = accuracy.measure(window, refer(tensors, True), window(*tensors, causal=True))
        alone = (tensors[0][:, :, -12:], *tensors[1:])
        expected = accuracy.measure(window, refer(alone, True), window(*alone, causal=True))
        assert seen.approx_error_worst_row == pytest.approx(expected.approx_error_worst_row)
        assert seen.approx_cosine == pytest.approx(expected.approx_cosine)
        assert seen.mass_recall == pytest.approx(expected.mass_recall)
        assert seen.total_variation == pytest.approx(expected.total_variation)
        assert accuracy.contradiction(window, seen) == ""

    def test_every_head_has_its_own_errors(self) -> None:
        tensors = problem()
        reference = refer(tensors, True)
        out = reference.exact.out.clone()
        out[1, 2] = 0
        window = variants.create("sliding_window", window_size=3)
        seen = accuracy.measure(window, reference, out)
        assert [(head.batch_index, head.head) for head in seen.heads] == [
            (batch, head) for batch in range(2) for head in range(4)
        ]
        errors = [head.approx_error_rel_l2 for head in seen.heads]
        assert errors == pytest.approx([0, 0, 0, 0, 0, 0, 1, 0], abs=1e-12)
        kept = [head.mass_recall or 0.0 for head in seen.heads]
        assert sum(kept) / 8 == pytest.approx(seen.mass_recall, rel=1e-12)
        described = reference.description.effective_keys.flatten().tolist()
        assert [head.effective_keys for head in seen.heads] == described


class TestSeeds:
    def test_the_spread_is_that_of_five_draws(self) -> None:
        tensors = problem(64, 64)
        performer = variants.create("performer", num_features=16, seed=3)
        reference = refer(tensors, False)
        others = accuracy.seed_errors(performer, reference)
        first = accuracy.measure(performer, reference, performer(*tensors))
        errors = []
        for seed in range(3, 8):
            drawn = variants.create("performer", num_features=16, seed=seed)
            errors.append(reference.error(drawn(*tensors))[0])
        seen = first.over_seeds(others)
        assert [first.approx_error_rel_l2, *others] == pytest.approx(errors, rel=1e-12)
        expected = torch.tensor(errors, dtype=torch.float64).std()
        assert seen.approx_error_seed_std == pytest.approx(float(expected), rel=1e-9)
        assert seen.approx_error_seeds == 5
        assert expected > 0

    def test_a_method_without_random_numbers_has_no_spread(self) -> None:
        linear = variants.create("linear")
        assert accuracy.seed_errors(linear, refer(problem(), False)) == []
        seen = accuracy.measure(linear, refer(problem(), False), linear(*problem()))
        assert seen.over_seeds([]).approx_error_seeds is None


class TestSharedQueriesAndKeys:
    def test_errors_of_sharing_and_of_approximation_are_separate(self) -> None:
        query, _, _ = problem(48, 48)
        generator = torch.Generator().manual_seed(2)
        key, value = (
            torch.randn(2, 4, 48, 8, generator=generator, dtype=torch.float64) for _ in range(2)
        )
        lsh = variants.create("lsh", shared_qk=True, bucket_size=8)
        reference = refer((query, key, value), True)
        out = lsh(query, query, value, causal=True)
        seen = accuracy.measure(lsh, reference, out, shared_qk=True)
        # By hand: keys are normalised queries, and a token sees itself only if it sees no other
        # key.
        unit = query / query.norm(dim=-1, keepdim=True)
        scores = query @ unit.transpose(-2, -1) / math.sqrt(8)
        hidden = torch.ones(48, 48, dtype=torch.bool).triu()
        hidden[0, 0] = False
        sharing = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
        exact = reference.exact.out
        assert seen.target_error_rel_l2 == pytest.approx(
            float((out - sharing).norm() / sharing.norm()), rel=1e-9
        )
        assert seen.substitution_error_rel_l2 == pytest.approx(
            float((sharing - exact).norm() / exact.norm()), rel=1e-9
        )
        assert 0.01 < (seen.target_error_rel_l2 or 0) != seen.substitution_error_rel_l2
        assert accuracy.contradiction(lsh, seen) == ""

    def test_without_sharing_there_are_no_separate_errors(self) -> None:
        window = variants.create("sliding_window", window_size=3)
        seen = accuracy.measure(window, refer(problem(), False), window(*problem()))
        assert seen.target_error_rel_l2 is seen.substitution_error_rel_l2 is None


def test_weights_that_are_no_softmax_over_the_seen_keys_are_detected() -> None:
    tensors = problem()
    window = variants.create("sliding_window", window_size=3)
    reference = refer(tensors, False)
    seen = accuracy.measure(window, reference, window(*tensors))
    assert accuracy.contradiction(window, seen) == ""
    assert seen.total_variation is not None
    object.__setattr__(seen, "total_variation", seen.total_variation + 1e-6)
    assert "must differ from the exact one by the mass" in accuracy.contradiction(window, seen)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_output_that_is_not_finite_is_refused(wrong: float) -> None:
    tensors = problem()
    linear = variants.create("linear")
    out = linear(*tensors)
    out[0, 0, 0, 0] = wrong
    seen = accuracy.measure(linear, refer(tensors, False), out)
    assert "must be finite; got" in accuracy.contradiction(linear, seen)
    assert all(math.isfinite(head.approx_error_rel_l2 or 0.0) for head in seen.heads)
