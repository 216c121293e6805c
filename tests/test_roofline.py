"""The limits of the machine, and rows that seem to be faster than these limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.instruments import clock, roofline
from bench.instruments.clock import Samples
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.workloads.attention import case_row, measure_case
from tests.cases import case, settings

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures("fresh")]

CPU = torch.device("cpu")


@pytest.fixture
def two_milliseconds(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Every call takes at least 2 ms and 4 ms in the median. Returns the calls that were timed."""
    timed: list[Callable[[], object]] = []

    def measure(call: Callable[[], object], *more: object, **named: object) -> Samples:
        timed.append(call)
        return Samples([8.0, 2.0, 4.0], [9.0])

    monkeypatch.setattr(clock, "measure", measure)
    return timed


def test_the_limits_of_this_machine_are_positive() -> None:
    limits = roofline.measure(CPU, ["float32"], seconds=0.01)
    rates = limits["matmul_tflops"]
    assert isinstance(rates, dict)
    assert set(rates) == {"float32"}
    assert 1e-4 < rates["float32"] < 1e4
    for name in ("copy_gb_per_s", "read_gb_per_s"):
        assert isinstance(limits[name], float)
        assert 0.1 < limits[name] < 1e5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_each_product_does_its_declared_operations_in_its_dtype(dtype: torch.dtype) -> None:
    products = list(roofline._products(CPU, dtype))
    assert len(products) >= 3
    for declared, call in products:
        with FlopCounterMode(display=False) as counter:
            out = call()
        assert counter.get_total_flops() == declared
        assert out.dtype == dtype


def test_a_limit_is_the_best_rate_in_tera_operations_per_second(
    two_milliseconds: list[Callable[[], object]], route: str
) -> None:
    limits = roofline.measure(CPU, ["float32", "float64"])
    # 2048³ multiplications and additions in 2 ms, the largest product of the three or four.
    expected = 2 * 2048**3 / 0.002 / 1e12
    assert limits["matmul_tflops"] == pytest.approx({"float32": expected, "float64": expected})
    routes = 2 if route == "fast" else 1
    assert len(two_milliseconds) == routes * 4 + 3 + 3
    rates = limits["matmul_tflops_by_route"]
    assert rates["float32"] == pytest.approx(dict.fromkeys(("default", "fast")[:routes], expected))
    assert rates["float64"] == pytest.approx({"default": expected})


def test_a_short_sampling_time_leaves_out_the_largest_product(
    two_milliseconds: list[Callable[[], object]],
) -> None:
    limits = roofline.measure(CPU, ["float64"], seconds=0.09)
    expected = 2 * 1024**3 / 0.002 / 1e12
    assert limits["matmul_tflops"] == pytest.approx({"float64": expected})
    assert len(two_milliseconds) == 2 + 3


def test_the_bandwidth_counts_bytes_read_and_bytes_written(
    two_milliseconds: list[Callable[[], object]],
) -> None:
    limits = roofline.measure(CPU, [])
    assert limits["copy_gb_per_s"] == pytest.approx(2 * 2**26 / 0.002 / 1e9)
    target = two_milliseconds[0]()
    assert isinstance(target, torch.Tensor)
    assert target.nbytes == 2**26
    assert not target.any()


def test_the_bandwidth_of_reading_counts_bytes_read(
    two_milliseconds: list[Callable[[], object]],
) -> None:
    limits = roofline.measure(CPU, [])
    assert limits["read_gb_per_s"] == pytest.approx(2**26 / 0.002 / 1e9)
    for call in two_milliseconds[1:]:
        out = call()
        assert isinstance(out, torch.Tensor)
        assert out.nbytes < 2**26 / 1000


def test_a_decoding_step_is_held_against_the_read_bandwidth(
    two_milliseconds: list[Callable[[], object]],
) -> None:
    asked = {"direction": "decode", "causal": True, "heads": 4, "kv_heads": 2}
    found = case(variant="full", hyperparameters="", implementation="sdpa", **asked)
    row = measure_case.measure(found, settings(read_gb_per_s=0.5))[0]
    # Keys and values of 32 tokens in 2 heads of 16 channels, in 4 ms in the median.
    assert row.roofline_fraction == pytest.approx(2 * 32 * 2 * 16 * 4 / 0.004 / 0.5e9)
    assert (row.useful_flops, row.tflops) == (None, None)


def test_a_route_is_left_after_its_measurement() -> None:
    before = torch.get_float32_matmul_precision()
    with roofline._tf32():
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    assert not torch.backends.cuda.matmul.allow_tf32


def test_float32_has_a_second_route_on_a_gpu_and_on_the_fast_route(route: str) -> None:
    cuda = torch.device("cuda")
    assert list(roofline._routes(cuda, "float32")) == ["default", "tf32"]
    assert list(roofline._routes(cuda, "bfloat16")) == ["default"]
    own = ["default", "fast"] if route == "fast" else ["default"]
    assert list(roofline._routes(CPU, "float32")) == own
    assert list(roofline._routes(CPU, "float64")) == ["default"]


def measured(limits: Mapping[str, float | None], **changes: object) -> Measurement:
    return measure_case.measure(
        case(variant="full", hyperparameters="", implementation="sdpa", **changes),
        settings(matmul_tflops=limits),
    )[0]


@pytest.fixture
def no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second measurement of the machine finds no higher limit."""
    monkeypatch.setattr(roofline, "measure", lambda *_: {"matmul_tflops": {"float32": 1e-12}})


@pytest.mark.usefixtures("no_faster")
def test_a_row_faster_than_the_machine_is_implausible_and_has_no_numbers() -> None:
    row = measured({"float32": 1e-9})
    assert row.status is Status.IMPLAUSIBLE_TIME
    assert row.disturbed  # so the loop measures the case again once
    assert "of the measured matmul rate of this machine" in row.reason
    assert all(getattr(row, column) is None for column in Measurement.numbers())


def test_a_limit_that_is_too_low_is_measured_again() -> None:
    row = measured({"float32": 1e-9})
    assert row.status is Status.OK
    assert 0 < (row.roofline_fraction or 0) <= 1.05


@pytest.mark.usefixtures("no_faster")
def test_a_row_is_implausible_above_105_percent_of_the_limit(
    two_milliseconds: list[Callable[[], object]],
) -> None:
    # 4 · heads · head_dim · n² operations in the median's 4 ms.
    rate = 4 * 2 * 16 * 32**2 / 0.004 / 1e12
    row = measured({"float32": rate / 1.049})
    assert row.status is Status.OK
    assert row.tflops == pytest.approx(rate)
    assert row.roofline_fraction == pytest.approx(1.049)
    row = measured({"float32": rate / 1.051})
    assert row.status is Status.IMPLAUSIBLE_TIME
    assert "is 105% of the measured" in row.reason


def test_a_limit_is_not_measured_again_if_no_row_exceeds_it(
    two_milliseconds: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(roofline, "measure")
    assert measured({"float32": 1e3}).status is Status.OK


def test_the_limit_is_that_of_the_dtype_of_the_row(
    two_milliseconds: list[Callable[[], object]],
) -> None:
    row = measured({"float32": 1e-12, "bfloat16": 1e3}, dtype="bfloat16")
    assert row.status is Status.OK
    assert row.roofline_fraction == pytest.approx((row.tflops or math.nan) / 1e3)


def test_a_dtype_that_is_computed_in_another_dtype_has_no_limit() -> None:
    assert roofline.measure(CPU, ["float16"], seconds=0.01)["matmul_tflops"] == {"float16": None}


@pytest.mark.parametrize("limits", [{}, {"float32": None}])
def test_without_a_limit_there_is_no_fraction(
    limits: dict[str, float | None], two_milliseconds: list[Callable[[], object]]
) -> None:
    row = measured(limits)
    assert row.status is Status.OK
    assert row.roofline_fraction is None


@pytest.mark.parametrize("limit", [None, 0.0, 1.0, 2.0])
def test_a_rate_is_plausible_without_a_limit_and_up_to_105_percent_of_it(
    limit: float | None,
) -> None:
    assert roofline.implausible(1.05, limit) == ""


def test_a_wrong_output_is_incorrect_even_if_its_time_is_implausible(
    two_milliseconds: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch, no_faster: None
) -> None:
    monkeypatch.setattr(case_row, "_wrong_output", lambda *_: "one is two")
    row = measured({"float32": 1e-9})
    assert (row.status, row.reason) == (Status.INCORRECT, "one is two")
