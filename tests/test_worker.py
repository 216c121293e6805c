"""Measurement of one case: its numbers, its baselines, and a row for every kind of failure."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from bench import inputs
from bench.instruments import accuracy, clock
from bench.instruments.accuracy import reference, weights
from bench.instruments.clock import Samples
from bench.instruments.memory import Peak
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.attention import current_shape, measure_case
from bench.workloads.attention.observe import Seen
from tests.cases import case, fresh_worker, settings
from variants import Attention, UnsupportedError
from variants.engines.primitives import float32_route
from variants.layer import MultiHeadAttention
from variants.sliding_window import SlidingWindowAttention

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures("fresh")]

Attend = Callable[..., Tensor]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three samples of 1, 2 and 3 ms, for tests that do not depend on times."""

    def measure(call: Callable[[], object], *more: object, **named: object) -> Samples:
        call()
        return Samples([3.0, 1.0, 2.0], [4.0, 1.0])

    monkeypatch.setattr(clock, "measure", measure)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Attend], None]:
    """Replace the kernel of the sliding window. The replacement receives the correct output and the
    arguments."""
    right = SlidingWindowAttention.attend

    def install(wrong: Attend) -> None:
        def attend(self: SlidingWindowAttention, *arguments: Any) -> Tensor:
            return wrong(right(self, *arguments), *arguments[:3])

        monkeypatch.setattr(SlidingWindowAttention, "attend", attend)

    return install


def measure(**changes: Any) -> Measurement:
    return measure_case.measure(case(**changes), settings())[0]


def full(implementation: str, **changes: Any) -> Measurement:
    return measure(variant="full", hyperparameters="", implementation=implementation, **changes)


def refer(given: inputs.Inputs, causal: bool = False) -> accuracy.Reference:
    """The exact answers of all rows of the given inputs."""
    sample = accuracy.sample_rows(given.query.shape[2], given.key.shape[2], causal=causal)
    return accuracy.Reference.of(given.query, given.key, given.value, sample, causal=causal)


def test_cases_with_the_same_inputs_share_exact_answers_and_have_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [case(causal=True, direction=d) for d in ("forward", "forward_backward", "forward")]
    alone = []
    for one in asked:
        with fresh_worker():
            alone.append(measure_case.measure(one, settings())[0])
    calls = []
    weigh, of = weights.weigh, accuracy.Reference.of
    count = monkeypatch.setattr
    count(weights, "weigh", lambda *x, **y: (calls.append(x[0].info.name), weigh(*x, **y))[1])
    count(accuracy.Reference, "of", lambda *x, **y: (calls.append("exact"), of(*x, **y))[1])
    with fresh_worker():
        together = [measure_case.measure(one, settings())[0] for one in asked]
        # Other inputs have other exact answers.
        other = measure_case.measure(case(causal=True, seed=1), settings())[0]
    assert calls.count("exact") == 2
    assert calls.count("sliding_window") == 2
    for row, single in zip(together, alone, strict=True):
        for name, value in vars(single).items():
            if "error" in name or name in ("mass_recall", "total_variation", "baseline_keys"):
                assert getattr(row, name) == value, name
    assert other.approx_error_rel_l2 != together[0].approx_error_rel_l2


class TestNumbers:
    def test_every_number_of_a_row_follows_from_the_measurements(self) -> None:
        row, raw = measure_case.measure(case(), settings(matmul_tflops={"float32": 50.0}))
        samples = raw.samples_ms
        assert row.status is Status.OK
        assert row.case == case()
        assert row.implementation_used == "blocks"
        assert row.inputs_detail == "independent standard normal numbers, seed 0"
        assert row.repeats == len(samples) >= clock.MINIMUM_SAMPLES
        first, median, third = statistics.quantiles(samples, n=4, method="inclusive")
        assert (row.time_ms_q1, row.time_ms_median, row.time_ms_q3) == (first, median, third)
        assert row.time_ms_min == min(samples)
        assert row.wall_ms_median == median
        assert row.prepare_ms is not None
        assert row.prepare_ms > 0
        assert row.exact_implementation in ("onednn", "sdpa", "plain")
        assert row.exact_ms_median is not None
        assert row.speedup_vs_exact == row.exact_ms_median / median
        assert row.peak_memory_bytes is not None
        assert row.peak_memory_bytes >= 4 * 2 * 32 * 16
        assert row.exact_peak_memory_bytes is not None
        assert row.memory_vs_exact == row.peak_memory_bytes / row.exact_peak_memory_bytes
        # Within 8 positions on each side: 17 keys for a query, fewer near the ends.
        pairs = sum(min(31, i + 8) - max(0, i - 8) + 1 for i in range(32))
        assert row.useful_flops == 4 * 2 * 16 * pairs
        assert row.tflops == pytest.approx(row.useful_flops / (median / 1e3) / 1e12)
        assert row.roofline_fraction == pytest.approx(row.tflops / 50)
        assert row.oracle_rows == 32
        assert {name for name in Measurement.numbers() if getattr(row, name) is None} == {
            "launch_bound",
            "host_in_time",
            "sm_clock_mhz",
            "power_w",
            "throttled",
            "energy_mj",
            "state_bytes",
            *(["process_peak_bytes"] if "not cross-checked" in row.memory_note else []),
            "saved_for_backward_bytes",
            "approx_error_seed_std",
            "approx_error_seeds",
            "target_error_rel_l2",
            "substitution_error_rel_l2",
            "grad_query_error_rel_l2",
            "grad_key_error_rel_l2",
            "grad_value_error_rel_l2",
        }
        assert row.target == "masked_softmax"
        assert [(head.batch_index, head.head) for head in raw.details] == [(0, 0), (0, 1)]

    def test_the_error_is_that_of_the_output_on_the_same_inputs(self) -> None:
        row = measure(causal=True)
        given = inputs.load(case(causal=True), {})
        window = variants.create("sliding_window", window_size=8)
        out = window(given.query, given.key, given.value, causal=True)
        reference = refer(given, causal=True)
        seen = accuracy.measure(window, reference, out, affordable_keys=9.0)
        facts = accuracy.input_facts(reference, given.detail).values
        assert row.values == row.values | seen.values | facts
        assert row.effective_keys > 1
        assert seen.approx_error_rel_l2 > 0.05

    @pytest.mark.usefixtures("quick")
    def test_gradients_have_errors_in_backward_cases(self) -> None:
        backward, forward = measure(direction="forward_backward"), measure()
        names = [f"grad_{name}_error_rel_l2" for name in ("query", "key", "value")]
        assert all(0.01 < getattr(backward, name) < 2 for name in names)
        assert {getattr(forward, name) for name in names} == {None}
        assert backward.approx_error_rel_l2 == forward.approx_error_rel_l2

    @pytest.mark.usefixtures("quick")
    def test_a_method_with_random_numbers_has_a_spread(self) -> None:
        row = measure(variant="performer", hyperparameters="num_features=8 seed=0")
        assert row.approx_error_seeds == 5
        assert row.approx_error_seed_std is not None
        assert 0 < row.approx_error_seed_std < row.approx_error_rel_l2

    @pytest.mark.usefixtures("quick")
    def test_the_budget_of_baselines_follows_from_the_operations(self) -> None:
        row = measure(causal=True)
        assert row.baseline_keys == sum(min(i, 8) + 1 for i in range(32)) / 32
        linear = measure(variant="linear", hyperparameters="feature_map=elu")
        assert linear.useful_flops is not None
        # As many keys as exact attention reads with these operations: 4 * head_dim for each key.
        assert linear.baseline_keys == round(linear.useful_flops / (4 * 16 * 2 * 32))

    @pytest.mark.usefixtures("quick")
    def test_contradictory_numbers_are_incorrect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accuracy, "contradiction", lambda *_: "one is two")
        row = measure()
        assert (row.status, row.reason) == (Status.INCORRECT, "one is two")

    @pytest.mark.usefixtures("quick")
    def test_wall_time_has_its_own_median(self) -> None:
        row = measure()
        assert (row.time_ms_median, row.time_ms_min, row.repeats) == (2.0, 1.0, 3)
        assert row.wall_ms_median == 2.5

    def test_the_time_excludes_the_preparation_of_reused_tensors(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(SlidingWindowAttention, "prepare", lambda *a, **k: time.sleep(0.05))
        row = measure()
        assert row.prepare_ms is not None
        assert row.prepare_ms >= 50
        assert row.time_ms_q3 is not None
        assert row.time_ms_q3 < 50

    @pytest.mark.usefixtures("quick")
    def test_memory_does_not_depend_on_earlier_measurements(self) -> None:
        first = measure()
        measure(variant="performer", hyperparameters="num_features=64 seed=0")
        full("plain")
        assert measure().peak_memory_bytes == first.peak_memory_bytes

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(
        ("variant", "hyperparameters", "factor"),
        [("sliding_window", "window_size=8", 3.5), ("linear", "feature_map=elu", 3.0)],
    )
    def test_a_backward_pass_is_run_and_counted(
        self, variant: str, hyperparameters: str, factor: float
    ) -> None:
        asked = {"variant": variant, "hyperparameters": hyperparameters, "kv_heads": 1}
        forward = measure(**asked)
        both = measure(**asked, direction="forward_backward")
        assert both.status is Status.OK
        assert both.useful_flops == factor * (forward.useful_flops or math.nan)
        # The three gradients are allocated in addition to the memory of a forward pass.
        gradients = 4 * 32 * 16 * (2 + 1 + 1)
        assert (both.peak_memory_bytes or 0) >= (forward.peak_memory_bytes or 0) + gradients
        assert both.approx_error_rel_l2 == forward.approx_error_rel_l2

    @pytest.mark.usefixtures("quick")
    def test_a_backward_pass_computes_every_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked_for = []
        grad = torch.autograd.grad

        def watched(
            out: Tensor, leaves: tuple[Tensor, ...], *more: Tensor, **named: bool
        ) -> object:
            asked_for.append(tuple(leaf.shape[1] for leaf in leaves))
            return grad(out, leaves, *more, **named)

        monkeypatch.setattr(torch.autograd, "grad", watched)
        measure(direction="forward_backward", kv_heads=1)
        assert set(asked_for) == {(2, 1, 1)}

    @pytest.mark.usefixtures("quick")
    def test_a_method_may_ignore_some_inputs(
        self, broken: Callable[[Attend], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A mean of all values has no gradient for query and key."""
        broken(lambda out, query, key, value: value.mean(2, keepdim=True).expand_as(query))
        monkeypatch.setattr(
            SlidingWindowAttention,
            "dense_weights",
            lambda self, query, key, *_, **__: (query @ key.transpose(-2, -1)) * 0 + 1 / 32,
        )
        monkeypatch.setattr(SlidingWindowAttention, "target", "other_kernel")
        assert measure(direction="forward_backward").status is Status.OK

    @pytest.mark.usefixtures("quick")
    def test_a_forward_pass_records_no_graph(self, broken: Callable[[Attend], None]) -> None:
        modes = []

        def watched(out: Tensor, *tensors: Tensor) -> Tensor:
            modes.append(torch.is_grad_enabled())
            return out

        broken(watched)
        measure()
        assert set(modes) == {False}


@pytest.mark.usefixtures("quick")
class TestBaselines:
    @pytest.fixture
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        lengths = []
        real = current_shape.measure_baselines

        def count(asked: Any, *more: Any) -> Any:
            lengths.append(asked.seq_len)
            return real(asked, *more)

        monkeypatch.setattr(current_shape, "measure_baselines", count)
        return lengths

    def test_baselines_are_measured_once_for_all_variants_of_a_shape(
        self, counted: list[int]
    ) -> None:
        rows = [measure(), full("plain"), full("sdpa"), measure(hyperparameters="window_size=4")]
        assert counted == [32]
        assert len({row.exact_ms_median for row in rows}) == 1
        measure(seq_len=40)
        measure()
        assert counted == [32, 40, 32]

    def test_inputs_that_cannot_be_loaded_do_not_reuse_other_baselines(
        self, counted: list[int]
    ) -> None:
        measure()
        for hyperparameters in ("window_size=8", "window_size=4"):
            row = measure(inputs="smollm2", layer=3, hyperparameters=hyperparameters)
            assert row.status is Status.UNSUPPORTED
        assert measure().status is Status.OK
        assert counted == [32, 32]

    def test_a_baseline_has_its_own_row(self) -> None:
        row = full("sdpa")
        assert row.status is Status.OK
        assert row.implementation_used == "sdpa"
        assert row.sdpa_ms_median == row.time_ms_median
        assert row.impl_error_rel_l2 == pytest.approx(row.approx_error_rel_l2, rel=1e-6)

    def test_implementations_of_reduced_precision_are_no_baselines(self) -> None:
        row = full("coarse")
        assert row.status is Status.OK  # within the bound for bfloat16 scores
        assert row.impl_error_rel_l2 is not None
        assert row.impl_error_rel_l2 > accuracy.rounding("float32")
        found = current_shape.enter(case(), settings(), exact=True).exact
        assert {"sdpa", "plain"} <= found.keys()
        assert "coarse" not in found

    def test_a_failing_baseline_does_not_affect_the_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attend = variants.full.FullAttention.attend

        def fail(attention: Attention, *tensors: Tensor, **call: Any) -> Tensor:
            if attention.implementation != "sdpa":
                raise RuntimeError("no memory for all pairs")
            return attend(attention, *tensors, **call)

        monkeypatch.setattr(variants.full.FullAttention, "attend", fail)
        row = measure()
        assert (row.status, row.exact_implementation) == (Status.OK, "sdpa")
        assert full("plain").status is Status.ERROR

    @pytest.mark.parametrize(
        ("plain_ms", "plain_error", "chosen"),
        [
            (5.0, 1.0e-7, "plain"),
            (5.0, 1.99e-7, "plain"),
            (5.0, 2.01e-7, "sdpa"),
            (11.0, 0.0, "sdpa"),
        ],
    )
    def test_the_baseline_is_the_fastest_within_twice_the_error_of_sdpa(
        self, monkeypatch: pytest.MonkeyPatch, plain_ms: float, plain_error: float, chosen: str
    ) -> None:
        def seen(name: str, milliseconds: float, error: float) -> Seen:
            quality = accuracy.MeasuredAccuracy(
                approx_error_rel_l2=error,
                approx_error_low=error,
                approx_error_high=error,
                approx_error_median_row=error,
                approx_error_worst_row=error,
                approx_cosine=1.0,
                impl_error_rel_l2=error,
                oracle_rows=1,
            )
            # The mean or the minimum would give another choice.
            samples = Samples([0.1, milliseconds, 1000.0], [])
            return Seen(samples, Peak(8, None), 0.0, quality, name)

        found = {"sdpa": seen("sdpa", 10.0, 1e-7), "plain": seen("plain", plain_ms, plain_error)}
        monkeypatch.setattr(current_shape, "measure_baselines", lambda *_: found)
        row = measure()
        assert row.exact_implementation == chosen
        assert row.exact_ms_median == (plain_ms if chosen == "plain" else 10.0)
        assert row.sdpa_ms_median == 10.0
        assert row.speedup_vs_exact == (row.exact_ms_median or math.nan) / 2.0

    def test_without_baselines_the_comparison_is_empty(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(current_shape, "measure_baselines", lambda *_: {})
        row = measure()
        assert row.status is Status.OK
        assert row.exact_ms_median is row.speedup_vs_exact is row.memory_vs_exact is None
        assert row.sdpa_ms_median is None


class TestRoute:
    """The route of float32 products on which a row is timed, in a process on the fast route."""

    @pytest.fixture
    def routes(self, monkeypatch: pytest.MonkeyPatch, fast_route: None) -> list[tuple[str, str]]:
        """Implementation and route of every call of full attention."""
        found = []
        attend = variants.full.FullAttention.attend

        def watched(attention: Attention, *tensors: Tensor, **call: Any) -> Tensor:
            found.append((attention.implementation, float32_route.present()))
            return attend(attention, *tensors, **call)

        monkeypatch.setattr(variants.full.FullAttention, "attend", watched)
        return found

    @pytest.mark.usefixtures("quick")
    def test_torch_sdpa_is_timed_at_torchs_defaults(self, routes: list[tuple[str, str]]) -> None:
        rows = [measure(), full("sdpa"), full("onednn")]
        assert [row.float32_route for row in rows] == ["fast", "default", "fast"]
        assert {route for name, route in routes if name != "sdpa"} == {"fast"}
        # Once at torch's defaults with its errors, and once for its time on the chosen route.
        assert [route for name, route in routes if name == "sdpa"].count("fast") == 1
        assert float32_route.present() == "fast"

    @pytest.mark.usefixtures("fast_route")
    def test_torch_sdpa_is_timed_on_the_chosen_route_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measure_by_route(call: Callable[[], object], *more: object, **named: object) -> Samples:
            call()
            return Samples([3.0 if float32_route.present() == "fast" else 5.0] * 3, [4.0])

        monkeypatch.setattr(clock, "measure", measure_by_route)
        row = measure()
        assert (row.sdpa_ms_median, row.sdpa_route_ms_median) == (5.0, 3.0)
        row = measure(dtype="bfloat16")
        assert (row.sdpa_ms_median, row.sdpa_route_ms_median) == (5.0, 5.0)

    @pytest.mark.usefixtures("quick")
    def test_steps_of_decoding_are_timed_at_torchs_defaults(
        self, routes: list[tuple[str, str]]
    ) -> None:
        seen = set()
        step = Attention.step

        def watched(attention: Attention, *inputs: Any, **call: Any) -> Any:
            seen.add(float32_route.present())
            return step(attention, *inputs, **call)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Attention, "step", watched)
            row = measure(direction="decode", causal=True, seq_len=100)
        assert (row.status, row.float32_route, seen) == (Status.OK, "default", {"default"})
        assert row.sdpa_route_ms_median == row.sdpa_ms_median
        assert ("auto", "fast") in routes  # the context is processed on the chosen route
        assert float32_route.present() == "fast"

    @pytest.mark.usefixtures("quick", "fast_route")
    def test_the_route_is_unchanged_after_a_case_that_fails(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> Tensor:
            raise RuntimeError("no memory for all pairs")

        monkeypatch.setattr(variants.full.FullAttention, "attend", fail)
        assert full("sdpa").status is Status.ERROR
        assert float32_route.present() == "fast"

    @pytest.mark.usefixtures("quick", "fast_route")
    def test_the_floor_of_the_dtype_is_measured_at_torchs_defaults(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = set()
        attend = reference.scaled_dot_product_attention

        def watched(*tensors: Tensor, **call: Any) -> Tensor:
            seen.add(float32_route.present())
            return attend(*tensors, **call)

        monkeypatch.setattr(reference, "scaled_dot_product_attention", watched)
        assert measure().dtype_floor_rel_l2 is not None
        assert seen == {"default"}


@pytest.mark.usefixtures("quick")
class TestIncorrect:
    @pytest.mark.parametrize(
        "wrong",
        [
            lambda out, *_: out.roll(1, 2),
            lambda out, *_: torch.zeros_like(out),
            lambda out, *_: out * 1.001,
            lambda out, *_: torch.full_like(out, math.nan),
            lambda out, *_: out.index_fill(2, torch.tensor([5]), math.inf),
            lambda out, query, key, value: torch.nn.functional.scaled_dot_product_attention(
                query, key, value
            ),
        ],
        ids=["shifted", "zeros", "scaled", "nan", "infinite", "exact attention instead"],
    )
    def test_an_output_that_differs_from_its_definition_gives_a_row_without_numbers(
        self, broken: Callable[[Attend], None], wrong: Attend
    ) -> None:
        broken(wrong)
        row = measure()
        assert row.status is Status.INCORRECT
        assert row.reason.startswith("the output differs from its own dense definition by ")
        assert row.reason.endswith("rounding in float32 explains at most 1e-05")
        assert all(getattr(row, name) is None for name in Measurement.numbers())

    def test_an_output_that_is_wrong_only_in_later_calls_is_detected(
        self, broken: Callable[[Attend], None]
    ) -> None:
        calls = []

        def later(out: Tensor, *_: Tensor) -> Tensor:
            calls.append(1)
            return out if len(calls) == 1 else out.roll(1, 2)

        broken(later)
        assert measure().status is Status.INCORRECT

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
    def test_rounding_is_not_incorrect(self, dtype: str) -> None:
        assert measure(dtype=dtype).status is Status.OK


@pytest.mark.usefixtures("quick")
class TestFailures:
    @pytest.mark.parametrize(
        ("error", "status", "reason"),
        [
            (UnsupportedError("no such mask"), Status.UNSUPPORTED, "no such mask"),
            (MemoryError(), Status.OUT_OF_MEMORY, "MemoryError"),
            (torch.OutOfMemoryError("CUDA out of memory"), Status.OUT_OF_MEMORY, "CUDA out of mem"),
            (ValueError("odd\n  shape"), Status.ERROR, "ValueError: odd"),
            (RuntimeError("cannot allocate"), Status.ERROR, "RuntimeError: cannot allocate"),
            (KeyError("x"), Status.ERROR, "KeyError: 'x'"),
            (ZeroDivisionError(), Status.ERROR, "ZeroDivisionError"),
            (ValueError("see /home/me/x.so: bad"), Status.ERROR, "ValueError: see (path): bad"),
            (
                ValueError("see https://github.com/owner/name, n/2 or 'a / b'"),
                Status.ERROR,
                "ValueError: see https://github.com/owner/name, n/2 or 'a / b'",
            ),
        ],
    )
    def test_an_exception_of_a_kernel_gives_a_row(
        self, broken: Callable[[Attend], None], error: Exception, status: Status, reason: str
    ) -> None:
        def fail(*_: Tensor) -> Tensor:
            raise error

        broken(fail)
        row, raw = measure_case.measure(case(), settings())
        assert row.status is status
        assert row.reason.startswith(reason)
        assert raw == Raw()
        assert all(getattr(row, name) is None for name in Measurement.numbers())

    def test_an_allocation_beyond_the_memory_is_out_of_memory(
        self, broken: Callable[[Attend], None]
    ) -> None:
        broken(lambda out, *_: torch.empty(1 << 60, dtype=torch.uint8))
        row = measure()
        assert row.status is Status.OUT_OF_MEMORY
        assert "can't allocate memory" in row.reason

    def test_a_long_message_is_truncated(self, broken: Callable[[Attend], None]) -> None:
        def fail(*_: Tensor) -> Tensor:
            raise ValueError("word " * 1000)

        broken(fail)
        row = measure()
        assert 250 < len(row.reason) < 350
        assert row.reason.endswith("...")

    @pytest.mark.parametrize(
        ("wrong", "got"),
        [
            (lambda out, *_: out[:, :, :-1], "(1, 2, 31, 16)"),
            (lambda out, *_: out.double(), "(1, 2, 32, 16)"),
            (lambda out, *_: None, "NoneType"),
        ],
    )
    def test_an_output_of_the_wrong_type_or_shape_is_an_error(
        self, broken: Callable[[Attend], None], wrong: Attend, got: str
    ) -> None:
        broken(wrong)
        row = measure()
        assert row.status is Status.ERROR
        assert "must be a tensor (1, 2, 32, 16) of torch.float32; got " + got in row.reason

    def test_a_backward_case_prepares_with_gradients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = []
        monkeypatch.setattr(
            SlidingWindowAttention,
            "prepare",
            lambda attention, query, key, *, causal: wanted.append(query.requires_grad),
        )
        for direction in ("forward", "forward_backward"):
            assert measure(direction=direction).status is Status.OK
        assert wanted == [False, True]

    def test_an_implementation_that_cannot_run_here_is_unsupported(self) -> None:
        row = full("xformers")
        assert row.status is Status.UNSUPPORTED
        assert row.reason == "xFormers has no operators for a CPU"

    def test_a_variant_without_a_backward_pass_gives_an_unsupported_row(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = SlidingWindowAttention.info
        without = dataclasses.replace(info, supports=info.supports - {"backward"})
        monkeypatch.setattr(SlidingWindowAttention, "info", without)
        row = measure(direction="forward_backward")
        assert row.status is Status.UNSUPPORTED
        assert "sliding_window does not support 'backward'" in row.reason
        assert measure().status is Status.OK

    def test_a_variant_without_causal_gives_an_unsupported_row(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = SlidingWindowAttention.info
        without = dataclasses.replace(info, supports=info.supports - {"causal"})
        monkeypatch.setattr(SlidingWindowAttention, "info", without)
        row = measure(causal=True)
        assert row.status is Status.UNSUPPORTED
        assert "sliding_window does not support 'causal'" in row.reason


@pytest.mark.usefixtures("quick")
class TestSharedQueriesAndKeys:
    SHARED = "bucket_size=8 num_hashes=1 seed=0 shared_qk=True"

    def test_the_queries_are_passed_as_keys(self) -> None:
        row = measure(variant="lsh", hyperparameters=self.SHARED)
        assert row.status is Status.OK
        given = inputs.load(case(), {})
        shared = variants.create("lsh", shared_qk=True, bucket_size=8)
        out = shared(given.query, given.query, given.value)
        seen = accuracy.measure(shared, refer(given), out, shared_qk=True)
        assert row.approx_error_rel_l2 == seen.approx_error_rel_l2

    @pytest.mark.parametrize("direction", ["forward", "forward_backward"])
    def test_both_directions_are_measured(self, direction: str) -> None:
        row = measure(variant="lsh", hyperparameters=self.SHARED, direction=direction)
        assert row.status is Status.OK

    @pytest.mark.parametrize("changes", [{"kv_heads": 1}, {"key_len": 40}])
    def test_queries_that_cannot_be_keys_are_unsupported(self, changes: dict[str, int]) -> None:
        row = measure(variant="lsh", hyperparameters=self.SHARED, **changes)
        assert row.status is Status.UNSUPPORTED
        assert "shared_qk needs as many keys and key/value heads as queries" in row.reason


@pytest.mark.usefixtures("quick")
class TestProjections:
    """The call of a layer. Its errors are those of its attention on the inputs of the case."""

    LSH = "bucket_size=8 num_hashes=1 seed=0 shared_qk=True"

    @pytest.mark.parametrize("direction", ["forward", "forward_backward"])
    @pytest.mark.parametrize("projections", ["separate", "shared"])
    def test_the_time_is_that_of_the_layer(
        self, monkeypatch: pytest.MonkeyPatch, projections: str, direction: str
    ) -> None:
        timed: list[torch.Size] = []
        gradients: list[int] = []
        grad = torch.autograd.grad

        def kept(*given: Any, **more: Any) -> Any:
            found = grad(*given, **more)
            gradients.append(sum(x is not None for x in found))
            return found

        def clocked(call: Callable[[], Tensor], *more: object, **named: object) -> Samples:
            timed.append(call().shape)
            return Samples([2.0, 2.0], [2.0])

        monkeypatch.setattr(clock, "measure", clocked)
        monkeypatch.setattr(torch.autograd, "grad", kept)
        asked = case(projections=projections, direction=direction, heads=4)
        row, _ = measure_case.measure(asked, settings(), exact=False)
        assert (row.status, row.reason) == (Status.OK, "")
        assert timed == [(1, 32, 64)]
        # Memory of the hidden states, and of a weight and a bias for each of three or four
        # projections.
        layers = {1 + 2 * (3 if projections == "shared" else 4)}
        alone = {2 if projections == "shared" else 3}
        assert set(gradients) == (layers | alone if direction == "forward_backward" else set())

    def test_errors_are_those_of_the_attention_without_projections(self) -> None:
        alone, separate = measure(causal=True), measure(causal=True, projections="separate")
        assert alone.approx_error_rel_l2 == separate.approx_error_rel_l2
        assert alone.impl_error_rel_l2 == separate.impl_error_rel_l2
        assert alone.mass_recall == separate.mass_recall

    def test_with_shared_projections_the_error_is_that_of_sharing(self) -> None:
        given = inputs.load(case(), {})
        row = full("auto", projections="shared")
        plain = variants.create("full", implementation="plain")
        query, key, value = (x.double() for x in (given.query, given.key, given.value))
        exact, shared = plain(query, key, value), plain(query, query, value)
        error = float((shared - exact).norm() / exact.norm())
        assert row.approx_error_rel_l2 == pytest.approx(error, rel=1e-5)
        assert row.impl_error_rel_l2 is not None
        assert row.impl_error_rel_l2 < 1e-6
        # Exact attention is measured with the same projections, so it is still a baseline.
        assert row.exact_ms_median == row.sdpa_ms_median == 2.0

    def test_hashed_attention_with_a_shared_key_needs_a_layer_with_shared_projections(self) -> None:
        asked = {"variant": "lsh", "hyperparameters": self.LSH}
        shared, separate = (measure(**asked, projections=p) for p in ("shared", "separate"))
        assert shared.status is Status.OK
        assert shared.approx_error_rel_l2 == measure(**asked).approx_error_rel_l2
        assert separate.status is Status.UNSUPPORTED
        assert separate.reason == (
            "lsh shared_qk=True needs a layer that uses its queries as keys: make the layer with "
            "shared_qk=True; got shared_qk=False"
        )

    @pytest.mark.parametrize("direction", ["forward", "forward_backward"])
    @pytest.mark.parametrize(
        ("projections", "kv_heads"), [("separate", 4), ("separate", 2), ("shared", 4)]
    )
    def test_the_operations_of_projections_count(
        self, projections: str, kv_heads: int, direction: str
    ) -> None:
        asked = {"heads": 4, "kv_heads": kv_heads, "direction": direction, "batch": 2}
        layer = MultiHeadAttention(64, 4, kv_heads, shared_qk=projections == "shared")
        weights = sum(x.numel() for x in layer.parameters() if x.ndim == 2)
        alone, row = measure(**asked).useful_flops, measure(**asked, projections=projections)
        assert alone is not None
        passes = 3 if direction == "forward_backward" else 1
        assert row.useful_flops == alone + passes * 2 * 2 * 32 * weights

    def test_memory_is_that_of_the_layer(self) -> None:
        alone, row = measure(), measure(projections="separate")
        assert alone.peak_memory_bytes is not None
        assert row.peak_memory_bytes is not None
        projected = 4 * 32 * 2 * 16  # bytes of one of query, key and value
        assert row.peak_memory_bytes >= alone.peak_memory_bytes + 2 * projected
        assert row.exact_peak_memory_bytes is not None
        assert measure().exact_peak_memory_bytes != row.exact_peak_memory_bytes

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
    def test_layers_are_measured_in_other_dtypes(self, dtype: str) -> None:
        for projections in ("separate", "shared"):
            row = measure(projections=projections, dtype=dtype, direction="forward_backward")
            assert (row.status, row.reason) == (Status.OK, "")

    def test_drawing_weights_does_not_change_the_global_random_state(self) -> None:
        before = torch.get_rng_state()
        measure(projections="separate")
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("projections", ["separate", "shared"])
    def test_a_layer_is_measured_only_with_self_attention(self, projections: str) -> None:
        row = measure(projections=projections, key_len=40)
        assert row.status is Status.UNSUPPORTED
        assert row.reason == (
            "a layer with projections is measured on self-attention: seq_len must equal key_len; "
            "got 32 and 40"
        )

    def test_shared_projections_need_as_many_key_heads_as_query_heads(self) -> None:
        row = measure(projections="shared", kv_heads=1)
        assert row.status is Status.UNSUPPORTED
        assert "shared_qk=True uses the query as the key: it needs kv_heads ==" in row.reason
