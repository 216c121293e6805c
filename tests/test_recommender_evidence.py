"""Candidates of runs: as measured, interpolated between neighbours, or extrapolated and refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from reports.recommender.misses import Misses
from reports.recommender.observations import observations
from tests.evidence_frames import EXACT_MS, SCENE, at, evidence, exact, frame_of, row

LENGTHS = (256, 512, 1024, 2048, 4096)


def power_law(exponent: float = 1.0, **changes: object) -> list[dict[str, object]]:
    """Rows whose time and error are straight lines on logarithmic axes."""
    return [row("longformer", n, 0.01 * n**exponent, 0.001 * n**0.5, **changes) for n in LENGTHS]


class TestMeasured:
    def test_a_measured_point_is_returned_as_measured(self) -> None:
        rows = power_law()
        found = at(evidence(*rows), 1024)["longformer"]
        measured = rows[2]
        assert found.evidence == "measured"
        assert (found.time_ms, found.time_low, found.time_high) == tuple(
            measured[f"time_ms_{name}"] for name in ("median", "q1", "q3")
        )
        assert (found.error, found.error_low, found.error_high) == tuple(
            measured[f"approx_error_{name}"] for name in ("rel_l2", "low", "high")
        )
        assert found.memory_bytes == 1000 * 1024
        assert found.rows == (2,)

    @pytest.mark.parametrize(
        "changes",
        [{"projections": "shared"}, {"launch": "graph"}, {"key_len": 64}, {"status": "timeout"}],
    )
    def test_rows_of_other_calls_are_no_evidence(self, changes: dict[str, object]) -> None:
        found = at(evidence(exact(1024), row("lsh", 1024, 1, 0.1, **changes)), 1024)
        assert list(found) == ["full"]

    @pytest.mark.parametrize(
        "change",
        [
            {"dtype": "bfloat16"},
            {"direction": "decode"},
            {"causal": False},
            {"inputs": "gaussian"},
            {"machine": "cpu, Other CPU"},
            {"head_dim": 128},
            {"batch": 2},
            {"kv_heads": 2},
        ],
    )
    def test_a_scene_that_differs_in_one_column_has_no_candidates(
        self, change: dict[str, object]
    ) -> None:
        found = evidence(*power_law(), *map(exact, LENGTHS))
        assert at(found, 1024)
        assert not at(found, 1024, replace(SCENE, **change))

    def test_seeds_are_pooled_with_the_widest_interval_of_the_error(self) -> None:
        rows = [
            row("lsh", 1024, time, error, seed=seed)
            for seed, (time, error) in enumerate([(10, 0.2), (12, 0.3), (11, 0.1)])
        ]
        found = at(evidence(*rows), 1024)["lsh"]
        assert found.time_ms == 11
        assert (found.error, found.error_low, found.error_high) == pytest.approx((0.2, 0.09, 0.33))
        assert found.rows == (0, 1, 2)

    def test_in_decoding_the_memory_is_the_state_and_the_step(self) -> None:
        rows = [exact(1024, direction="decode", state_bytes=5e6)]
        found = at(evidence(*rows), 1024, replace(SCENE, direction="decode"))
        assert found["full"].memory_bytes == 5e6 + 1000 * 1024

    def test_implementations_and_settings_are_methods_of_their_own(self) -> None:
        rows = [
            exact(1024),
            exact(1024, implementation="sdpa", hyperparameters="none"),
            row("lsh", 1024, 1, 0.1, hyperparameters="num_hashes=1"),
            row("lsh", 1024, 2, 0.05, hyperparameters="num_hashes=2"),
        ]
        assert list(at(evidence(*rows), 1024)) == [
            "full",
            "full implementation=sdpa",
            "lsh num_hashes=1",
            "lsh num_hashes=2",
        ]

    def test_exact_attention_that_computes_something_else_is_not_exact(self) -> None:
        rows = [
            exact(1024),
            exact(1024, implementation="coarse"),
            exact(1024, implementation="peer", reason="computes something else: no scale"),
        ]
        found = at(evidence(*rows), 1024)
        assert [one.is_exact for one in found.values()] == [True, True, False]


class TestInterpolated:
    def test_straight_lines_on_log_axes_are_met(self) -> None:
        found = at(evidence(*power_law(1.5)), 1448)["longformer"]
        assert found.evidence == "interpolated"
        assert found.time_ms == pytest.approx(0.01 * 1448**1.5)
        assert found.error == pytest.approx(0.001 * 1448**0.5)
        assert found.error_high == pytest.approx(1.1 * found.error)
        assert found.memory_bytes == pytest.approx(1000 * 1448)
        assert found.rows == (2, 3)

    def test_the_interval_is_widened_by_the_95_percent_quantile_of_misses(self) -> None:
        # At every second length the time is 10 % above the line, so neighbours miss it by 10 %.
        rows = [
            row(f"lsh{method}", 2**k, 2**k * (1.1 if k % 2 else 1), 0.2, noise=0)
            for method in range(3)
            for k in range(6, 18)
        ]
        found = at(evidence(*rows), 362)["lsh0"]
        assert found.time_ms == pytest.approx(362 * 1.1 ** math.log2(362 / 256))
        assert found.time_high / found.time_ms == pytest.approx(1.1)
        assert found.time_ms / found.time_low == pytest.approx(1.1)

    def test_the_noise_and_the_miss_add_up_as_squares(self) -> None:
        rows = [
            row(f"lsh{method}", 2**k, 2**k * (1.1 if k % 2 else 1), 0.2, noise=0)
            for method in range(3)
            for k in range(6, 18)
        ]
        noisy = [row("lsh", n, n, 0.2, noise=0.05) for n in (256, 512)]
        found = at(evidence(*rows, *noisy), 384)["lsh"]
        widened = math.hypot(math.log(1.05), math.log(1.1))
        assert found.time_high / found.time_ms == pytest.approx(math.exp(widened))
        assert found.noise_high / found.time_ms == pytest.approx(1.05)

    def test_errors_that_rise_faster_are_widened_by_more(self) -> None:
        # Errors rise by a factor of 2 or of 1.1 at each step; the middle one is 5 % too large.
        rows = [
            row(f"lsh{method}", n, n, 0.01 * rise**k * (1.05 if k == 2 else 1), spread=0)
            for method in range(40)
            for rise in [2 if method else 1.1]
            for k, n in enumerate(LENGTHS)
        ]
        found = at(evidence(*rows), 724)
        steep, flat = found["lsh1"], found["lsh0"]
        widened = [math.log(one.error_high / one.error) for one in (steep, flat)]
        assert widened[0] / widened[1] == pytest.approx(
            (0.3 + math.log(2 * 1.05)) / (0.3 + math.log(1.1 * 1.05))
        )

    def test_misses_of_one_outlier_among_many_do_not_widen(self) -> None:
        rows = [row(f"lsh{k}", n, n, 0.2, noise=0) for k in range(60) for n in LENGTHS]
        rows[2] = row("lsh0", 1024, 2 * 1024, 0.2, noise=0)
        found = at(evidence(*rows), 1448)["lsh5"]
        assert found.time_high == pytest.approx(found.time_ms)

    def test_misses_of_other_machines_and_directions_do_not_count(self) -> None:
        bent = [
            row("lsh", n, n * (3 if n == 1024 else 1), 0.2, noise=0, **change)
            for change in ({"machine": "cpu, Other CPU"}, {"direction": "decode"})
            for n in LENGTHS
        ]
        found = at(evidence(*power_law(noise=0), *bent), 1448)["longformer"]
        assert found.time_high == pytest.approx(found.time_ms)

    def test_without_a_third_length_the_interval_is_that_of_both_neighbours(self) -> None:
        rows = [row("lsh", 1024, 10, 0.1), row("lsh", 2048, 20, 0.2)]
        found = at(evidence(*rows), 1448)["lsh"]
        assert (found.time_low, found.time_high) == pytest.approx((9.8, 20.4))
        assert (found.error_low, found.error_high) == pytest.approx((0.09, 0.22))

    def test_an_aligned_length_is_interpolated_between_aligned_ones(self) -> None:
        # Lengths that are not multiples of 64 take twice as long.
        lengths = (1024, 1448, 2048, 2896, 4096, 5793, 8192)
        rows = [row("lsh", n, n * (2 if n % 64 else 1), 0.2, noise=0) for n in lengths]
        found = at(evidence(*rows), 3072)["lsh"]
        assert (found.time_low, found.time_high) == pytest.approx((3072, 3072))
        between = at(evidence(*rows), 3000)["lsh"]
        assert between.time_low < 3000 < 6000 < between.time_high
        # Without aligned lengths on both sides, all lengths count.
        assert at(evidence(*rows[1:]), 1984)["lsh"].evidence == "interpolated"

    def test_where_a_method_begins_to_err_its_error_is_that_of_the_longer_neighbour(self) -> None:
        rows = [
            row("sliding_window", n, n, e)
            for n, e in zip(LENGTHS, (1e-7, 1e-7, 0.2, 0.22, 0.25), strict=True)
        ]
        found = at(evidence(*rows), 724)["sliding_window"]
        assert found.error == 0.2
        assert found.error_high == pytest.approx(0.22)
        assert found.error_low <= 1e-7

    def test_errors_up_to_a_factor_of_10_apart_are_interpolated(self) -> None:
        def error(second: float) -> float:
            rows = [row("lsh", 1024, 10, 0.01), row("lsh", 4096, 20, second)]
            return at(evidence(*rows), 2048)["lsh"].error

        assert error(0.09) == pytest.approx(0.03)
        assert error(0.11) == 0.11

    def test_an_interpolated_error_is_not_below_the_floor_of_the_dtype(self) -> None:
        rows = [
            exact(n, dtype_floor_rel_l2=2e-3)
            | {
                "approx_error_rel_l2": 2.1e-3,
                "approx_error_low": 2e-3,
                "approx_error_high": 2.2e-3,
            }
            for n in LENGTHS
        ]
        bent = [row("lsh", n, n, 0.2 * (2 if n == 1024 else 1)) for n in LENGTHS]
        found = at(evidence(*rows, *bent), 1448)["full"]
        assert found.error_low == pytest.approx(2e-3)
        assert found.error_high > 2.2e-3

    def test_neighbours_more_than_a_factor_of_4_apart_are_not_interpolated(self) -> None:
        near = [f(n) for n in (1024, 4096) for f in (exact, lambda n: row("lsh", n, n, 0.1))]
        far = [f(n) for n in (1024, 4097) for f in (exact, lambda n: row("lsh", n, n, 0.1))]
        assert at(evidence(*near), 2048)["lsh"].evidence == "interpolated"
        found = at(evidence(*far), 2048)
        assert found["lsh"].evidence == "extrapolated"
        assert found["lsh"].excluded == "not measured between 1024 and 4097 tokens"
        assert not found["full"].excluded


class TestExtrapolated:
    @pytest.mark.parametrize(("length", "word"), [(8192, "above 4096"), (128, "below 256")])
    def test_only_exact_attention_is_not_excluded(self, length: int, word: str) -> None:
        found = at(evidence(*power_law(), *map(exact, LENGTHS)), length)
        assert found["longformer"].excluded == f"not measured {word} tokens"
        assert not found["full"].excluded
        assert {one.evidence for one in found.values()} == {"extrapolated"}
        assert found["full"].time_ms == pytest.approx(EXACT_MS * length**2)
        assert found["full"].time_low < found["full"].time_ms < found["full"].time_high

    def test_the_interval_holds_the_slopes_of_the_last_three_lengths(self) -> None:
        times = {1024: 10.0, 2048: 35.0, 4096: 140.0}  # exponents 1.81 and 2
        rows = [exact(n, time, noise=0) for n, time in times.items()]
        found = at(evidence(*rows), 8192)["full"]
        assert found.time_ms == pytest.approx(560)
        # From the first two lengths, 122.5 ms are expected at 4096: the miss widens the interval.
        miss = 140 / 122.5
        assert found.time_low == pytest.approx(140 * 3.5 / miss)
        assert found.time_high == pytest.approx(560 * miss)

    def test_misses_of_approximations_do_not_widen_exact_attention(self) -> None:
        bent = [row("lsh", n, n * (2 if n == 4096 else 1), 0.2, noise=0) for n in LENGTHS]
        found = at(evidence(*(exact(n, noise=0) for n in LENGTHS), *bent), 8192)
        assert found["full"].time_high == pytest.approx(found["full"].time_ms)
        assert found["lsh"].time_high > 1.9 * found["lsh"].time_ms

    def test_one_length_takes_the_slopes_of_other_inputs(self) -> None:
        rows = [exact(4096, 100, noise=0)]
        rows += [exact(n, n**1.9, inputs="gaussian", layer=None, noise=0) for n in LENGTHS]
        found = at(evidence(*rows), 8192)["full"]
        assert found.time_ms == found.time_high == pytest.approx(100 * 2**1.9)

    def test_an_implementation_without_slopes_takes_those_of_the_others(self) -> None:
        rows = [exact(4096, 100, noise=0, implementation="plain")]
        rows += [exact(n, n**1.9, causal=False, noise=0) for n in LENGTHS]
        found = at(evidence(*rows), 8192)["full implementation=plain"]
        assert found.time_ms == found.time_high == pytest.approx(100 * 2**1.9)

    def test_slopes_of_other_hardware_do_not_count(self) -> None:
        other = {"machine": "cpu, Other CPU", "hardware": "cpu, Other CPU"}
        rows = [exact(4096, 100, noise=0)]
        rows += [exact(n, n**1.9, noise=0, **other) for n in LENGTHS]
        assert at(evidence(*rows), 8192)["full"].time_low == pytest.approx(200)

    def test_one_length_alone_is_bounded_by_linear_and_quadratic_time(self) -> None:
        found = at(evidence(exact(4096, 100, noise=0)), 8192)["full"]
        assert (found.time_low, found.time_high) == pytest.approx((200, 400))


class TestHeads:
    def rows(self, *heads: int) -> list[dict[str, object]]:
        return [
            one
            for count in heads
            for one in (
                exact(1024, 10.0 * count, heads=count),
                row("lsh", 1024, 2.0 * count, 0.1 * count**0.1, heads=count),
            )
        ]

    def test_between_two_counts_time_and_memory_are_interpolated_and_errors_united(self) -> None:
        found = at(evidence(*self.rows(4, 16)), 1024)["lsh"]
        assert found.evidence == "interpolated"
        assert found.time_ms == pytest.approx(16)
        assert found.error_low == pytest.approx(0.09 * 4**0.1)
        assert found.error_high == pytest.approx(0.11 * 16**0.1)

    @pytest.mark.parametrize("heads", [(2, 4), (4,), (16, 32), (1, 32)])
    def test_outside_the_measured_counts_only_exact_attention_is_left(
        self, heads: tuple[int, ...]
    ) -> None:
        found = at(evidence(*self.rows(*heads)), 1024)
        assert found["lsh"].excluded == "not measured with numbers of heads near 8"
        assert found["full"].evidence == "extrapolated"
        assert not found["full"].excluded
        assert found["full"].time_low <= 80 <= found["full"].time_high

    def test_an_unmeasured_length_at_an_unmeasured_count_is_interpolated_twice(self) -> None:
        rows = [
            row("lsh", n, 0.001 * n * count, 0.1, heads=count) for n in LENGTHS for count in (4, 16)
        ]
        found = at(evidence(*rows), 1448)["lsh"]
        assert found.time_ms == pytest.approx(0.001 * 1448 * 8)
        assert len(found.rows) == 4


class TestLayers:
    ROWS = (
        row("lsh", 1024, 10, 0.1, layer=3),
        row("lsh", 1024, 11, 0.3, layer=15),
        row("lsh", 1024, 12, 0.2, layer=28),
    )

    def test_the_policy_selects_the_layer_of_the_error(self) -> None:
        found = evidence(*self.ROWS)
        errors = {policy: at(found, 1024, layer=policy)["lsh"] for policy in ("worst", "median", 3)}
        assert {name: one.error for name, one in errors.items()} == {
            "worst": 0.3,
            "median": 0.2,
            3: 0.1,
        }
        assert [one.layer for one in errors.values()] == [15, 28, 3]
        assert list(errors["worst"].layer_errors) == [3, 15, 28]
        assert errors["worst"].layer_errors[28] == pytest.approx((0.2, 0.18, 0.22))
        assert errors["worst"].time_ms == errors["median"].time_ms == 11
        assert errors[3].time_ms == 10

    def test_the_worst_layer_is_that_of_the_largest_upper_end(self) -> None:
        wide = row("lsh", 1024, 10, 0.2, spread=0.9, layer=28)
        found = at(evidence(*self.ROWS[:2], wide), 1024)["lsh"]
        assert (found.error, found.layer) == (0.2, 28)

    def test_only_layers_of_both_neighbours_are_interpolated(self) -> None:
        rows = [*self.ROWS, row("lsh", 2048, 20, 0.3, layer=15)]
        found = at(evidence(*rows), 1448)["lsh"]
        assert list(found.layer_errors) == [15]

    def test_a_method_without_the_layer_is_no_candidate(self) -> None:
        found = evidence(*self.ROWS, exact(1024, layer=3))
        assert list(at(found, 1024, layer=3)) == ["lsh", "full"]
        assert list(at(found, 1024, layer=15)) == ["lsh"]

    def test_a_layer_that_was_not_measured_is_estimated_from_the_others(self) -> None:
        found = at(evidence(*self.ROWS), 1024, layer=7)["lsh"]
        assert (found.evidence, found.layer, found.error) == ("interpolated", 7, 0.2)
        # The farthest outside the intervals of the others is layer 3: 0.1, below 0.9 * 0.2.
        assert found.error_high == pytest.approx(1.1 * 0.3 * 1.8)
        assert found.error_low == pytest.approx(0.9 * 0.1 / 1.8)
        # The farthest times: 10 ms, below 0.98 * 11 ms, and 12 ms, above 1.02 * 11 ms.
        assert found.time_high == pytest.approx(1.02 * 12 * (0.98 * 11 / 10))

    def test_the_worst_layer_of_a_method_counts_the_layers_that_others_have(self) -> None:
        # lsh is measured in two layers, which differ; longformer in the one with small errors.
        rows = [row("lsh", n, 10, e, layer=x) for n in LENGTHS for x, e in ((3, 0.1), (15, 0.3))]
        rows += [row("longformer", 1024, 8, 0.1, layer=3), exact(1024, layer=3)]
        found = at(evidence(*rows), 1024)
        lsh, other = found["lsh"], found["longformer"]
        assert (lsh.evidence, lsh.error) == ("measured", 0.3)
        assert (other.evidence, other.layer) == ("interpolated", 15)
        assert other.layer_errors[3] == pytest.approx((0.1, 0.09, 0.11))
        # A layer of lsh is outside the other by a factor of 0.3 / 0.11.
        assert other.error_high == pytest.approx(0.11 * 0.3 / 0.11)
        assert found["full"].evidence == "measured"
        assert at(evidence(*rows), 1024, layer=3)["longformer"].evidence == "measured"

    def test_the_spread_of_layers_is_that_of_the_same_inputs(self) -> None:
        others = [
            row("lsh", 1024, 10, e, layer=x, inputs="file:other")
            for x, e in ((1, 0.01), (2, 0.1), (3, 0.5))
        ]
        found = at(evidence(*self.ROWS, *others), 1024, layer=7)["lsh"]
        assert found.error_high == pytest.approx(1.1 * 0.3 * 1.8)

    def test_memory_and_gradient_errors_are_the_largest_of_the_layers(self) -> None:
        more = {"grad_query_error_rel_l2": 0.1, "grad_key_error_rel_l2": 0.4}
        rows = [
            row("lsh", 1024, 10, 0.1, layer=3, peak_memory_bytes=7, **more),
            row("lsh", 1024, 10, 0.1, layer=15, peak_memory_bytes=5, grad_key_error_rel_l2=0.2),
        ]
        found = at(evidence(*rows), 1024)["lsh"]
        assert (found.memory_bytes, found.gradient_error) == (7, 0.4)

    def test_one_layer_says_nothing_about_another(self) -> None:
        found = at(evidence(*self.ROWS[:1], exact(1024, layer=3)), 1024, layer=7)
        assert found["lsh"].evidence == "extrapolated"
        assert found["lsh"].excluded == "not measured in layer 7"
        assert not found["full"].excluded

    def test_synthetic_inputs_have_no_layers(self) -> None:
        found = at(evidence(row("lsh", 1024, 10, 0.1, layer=None)), 1024)["lsh"]
        assert found.layer is None
        assert found.layer_errors == {}


class TestExcluded:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"other_operator": True}, "another operator"),
            ({"mean_value_error_rel_l2": 0.54}, "no better than the mean of the values"),
            ({"random_keys_error_rel_l2": 0.54}, "no better than random keys"),
        ],
    )
    def test_what_a_baseline_matches_at_the_upper_end_is_excluded(
        self, changes: dict[str, object], reason: str
    ) -> None:
        found = at(evidence(row("lsh", 1024, 1, 0.5, **changes)), 1024)["lsh"]
        assert reason in found.excluded

    def test_an_error_as_large_as_that_of_zeros_is_excluded(self) -> None:
        changes = {"mean_value_error_rel_l2": 2.0}
        rows = [row("lsh", 1024, 1, 0.95, **changes), row("bigbird", 1024, 1, 0.85, **changes)]
        found = at(evidence(*rows), 1024)
        assert "an output of zeros" in found["lsh"].excluded
        assert not found["bigbird"].excluded

    def test_random_keys_are_no_baseline_for_a_budget_of_all_keys(self) -> None:
        changes = {"random_keys_error_rel_l2": 1e-15}
        all_keys = row("lsh", 1024, 1, 0.5, baseline_keys=512.5, **changes)
        assert not at(evidence(all_keys), 1024)["lsh"].excluded
        half = row("lsh", 1024, 1, 0.5, baseline_keys=512.5, causal=False, **changes)
        assert at(evidence(half), 1024, replace(SCENE, causal=False))["lsh"].excluded

    def test_rows_without_baselines_are_held_against_zeros_only(self) -> None:
        changes = dict.fromkeys(
            ("mean_value_error_rel_l2", "random_keys_error_rel_l2", "baseline_keys"), math.nan
        )
        assert not at(evidence(row("lsh", 1024, 1, 0.8, **changes)), 1024)["lsh"].excluded

    def test_without_a_row_of_exact_attention_slower_methods_are_excluded(self) -> None:
        slow, fast = row("lsh", 1024, 11, 0.1), row("bigbird", 1024, 9, 0.1)
        found = at(evidence(slow, fast), 1024)  # exact attention takes 10.5 ms in their process
        assert found["lsh"].excluded == "slower than exact attention (10.5 ms)"
        assert not found["bigbird"].excluded
        assert not at(evidence(slow, exact(1024)), 1024)["lsh"].excluded

    def test_exact_attention_is_never_excluded(self) -> None:
        found = at(evidence(exact(1024, random_keys_error_rel_l2=1e-15)), 1024)
        assert not found["full"].excluded

    def test_with_the_worst_layer_one_useless_layer_excludes(self) -> None:
        rows = [row("lsh", 1024, 1, 0.1, layer=3), row("lsh", 1024, 1, 0.5, layer=15)]
        rows[0]["mean_value_error_rel_l2"] = 0.1
        found = evidence(*rows)
        assert "in layer 3" in at(found, 1024)["lsh"].excluded
        assert not at(found, 1024, layer=15)["lsh"].excluded


class TestPerplexities:
    def models(self) -> pd.DataFrame:
        ratios = [
            ("lsh", "auto", "num_hashes=1", 2048, 1.2),
            ("lsh", "auto", "num_hashes=1", 8192, 1.3),
            ("full", "auto", "", 2048, 1.0),
        ]
        return pd.DataFrame(
            [
                {
                    "variant": variant,
                    "implementation": implementation,
                    "hyperparameters": settings,
                    "layers": "all",
                    "seq_len": seq_len,
                    "status": "ok",
                    "perplexity_ratio": ratio,
                    "perplexity_ratio_low": ratio - 0.05,
                    "perplexity_ratio_high": ratio + 0.05,
                }
                for variant, implementation, settings, seq_len, ratio in ratios
            ]
        )

    @pytest.mark.parametrize(
        ("seq_len", "length", "ratio"), [(1024, 2048, 1.2), (4096, 2048, 1.2), (16384, 8192, 1.3)]
    )
    def test_the_ratio_is_that_at_the_longest_length_up_to_the_asked_one(
        self, seq_len: int, length: int, ratio: float
    ) -> None:
        rows = [row("lsh", seq_len, 1, 0.1, hyperparameters="num_hashes=1")]
        found = at(evidence(*rows, models=self.models()), seq_len)["lsh num_hashes=1"]
        assert found.perplexity_seq_len == length
        assert found.perplexity_ratio == pytest.approx((ratio, ratio - 0.05, ratio + 0.05))

    def test_other_settings_and_reduced_precision_have_no_ratio(self) -> None:
        rows = [
            row("lsh", 1024, 1, 0.1, hyperparameters="num_hashes=2"),
            row("lsh", 1024, 1, 0.1, hyperparameters="num_hashes=1", implementation="coarse"),
            exact(1024, implementation="sdpa", hyperparameters="none"),
        ]
        found = at(evidence(*rows, models=self.models()), 1024)
        assert [one.perplexity_ratio is None for one in found.values()] == [True, True, False]


class TestWidening:
    """The widening of a time, from curves whose middle point is above the line, without noise."""

    def widening(self, spacing: float, *bends: tuple[int, float]) -> float:
        """`bends` are the factors between neighbours, and how far the middle point is above."""
        curves = []
        for step, bend in bends:
            rows = [
                row("lsh", 256 * step**k, bend if k == 1 else 1.0, 0.2, noise=0) for k in range(3)
            ]
            curves.append({one.seq_len: one.estimate for one in observations(frame_of(rows))})
        return math.exp(Misses(curves).widening(spacing).time)

    def test_the_nearest_spacing_counts_if_it_has_20_points(self) -> None:
        many = [*[(2, 1.2)] * 20, *[(4, 1.5)] * 20]
        assert self.widening(4, *many) == pytest.approx(1.2)
        assert self.widening(2, *many) == pytest.approx(1.2)
        assert self.widening(16, *many) == pytest.approx(1.5)

    def test_wider_spacings_are_added_up_to_20_points(self) -> None:
        assert self.widening(4, *[(2, 1.2)] * 19, (4, 1.5)) == pytest.approx(1.5)

    def test_of_20_points_the_largest_is_left_out_from_39_on(self) -> None:
        assert self.widening(4, (2, 1.5), *[(2, 1.2)] * 37) == pytest.approx(1.5)
        assert self.widening(4, (2, 1.5), *[(2, 1.2)] * 38) == pytest.approx(1.2)

    def test_misses_of_narrower_spacings_grow_with_the_square_of_the_spacing(self) -> None:
        assert self.widening(16, (2, 1.2)) == pytest.approx(1.2**4)

    def test_without_misses_nothing_is_known(self) -> None:
        assert self.widening(2) == math.inf

    def test_noise_of_the_measured_values_is_no_miss(self) -> None:
        def widened(noise: float) -> float:
            rows = [
                row("lsh", n, 1.1 if n == 1024 else 1.0, 0.2, noise=noise)
                for n in (512, 1024, 2048)
            ]
            curve = {one.seq_len: one.estimate for one in observations(frame_of(rows))}
            return math.exp(Misses([curve]).widening(4).time)

        assert widened(0.0) == pytest.approx(1.1)
        # The squares of the miss and of the noise add up.
        miss = math.sqrt(math.log(1.1) ** 2 - math.log(1.05) ** 2)
        assert widened(0.05) == pytest.approx(math.exp(miss))
        assert widened(0.2) == 1.0
