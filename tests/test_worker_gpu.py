"""The worker and libraries that fail or compile on a GPU, tested without one."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.instruments import clock, roofline
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.workloads.attention import current_shape, measure_case
from tests.cases import case, settings
from variants.contract import tensor_cache
from variants.engines.libraries import flex, xformers
from variants.full import FullAttention

pytestmark = pytest.mark.usefixtures("fresh")


def measure(**changes: Any) -> Measurement:
    return measure_case.measure(case(**changes), settings())[0]


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Search for xFormers again, in the test and after it."""
    xformers._missing.cache_clear()
    yield
    xformers._missing.cache_clear()


class NoDriver(Exception):
    """An error of a kind that no caller expects."""


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("when", ["import", "probe", "tensor"])
def test_every_failure_of_xformers_is_a_reason(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NoDriver("libcudart.so.12\n  is missing")

    class Package(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if when == "import":
                raise NoDriver("libcudart.so.12\n  is missing")
            return types.SimpleNamespace(memory_efficient_attention_forward=fail)

    monkeypatch.setitem(sys.modules, "xformers", Package("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", Package("xformers.ops"))
    monkeypatch.setattr(torch, "empty", fail if when == "tensor" else lambda *_, **__: None)
    reason = xformers._missing()
    assert reason is not None
    assert reason.startswith("xFormers cannot be" if when == "import" else "xFormers finds no")
    assert "libcudart.so.12 is missing" in reason


def test_an_exact_implementation_that_fails_in_an_unknown_way_fails_no_other_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unavailable(self: FullAttention, implementation: str, device: torch.device) -> None:
        raise NoDriver("no driver")

    monkeypatch.setattr(FullAttention, "unavailable", unavailable)
    row = measure()
    assert row.status is Status.OK, row.reason
    assert row.exact_ms_median is None


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places from which FlexAttention would be compiled. Nothing is compiled: the replacement
    computes the same in plain operations."""
    found: list[str] = []

    def to_compile() -> Callable[..., Tensor]:
        names = {frame.f_code.co_name for frame in _frames()}
        # A test of another batch is left out if a call compiles for seconds.
        if "is_batch_invariant" not in names:
            found.append("prepare" if "prepare" in names else "call")

        def plain(query: Tensor, key: Tensor, value: Tensor, mask: Any, *more: Any) -> Tensor:
            rows, columns = torch.arange(query.shape[2])[:, None], torch.arange(key.shape[2])
            heads = torch.arange(query.shape[1])[:, None, None]
            seen = mask.mask_mod(torch.zeros((), dtype=torch.int64), heads, rows, columns)
            scores = (query @ key.mT * more[0]).masked_fill(~seen, -torch.inf)
            return torch.softmax(scores, -1) @ value

        return plain

    monkeypatch.setattr(flex, "_to_compile", to_compile)
    monkeypatch.setattr(flex, "unavailable", lambda device: None)
    tensor_cache.clear()
    return found


def _frames() -> Iterator[Any]:
    frame: Any = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
def test_everything_is_compiled_by_prepare_and_once(
    direction: str, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "_check", lambda query, gradient: None)  # a CPU has no backward pass
    row = measure(implementation="flex", direction=direction)
    assert row.status is Status.OK, row.reason
    # The errors of gradients are measured in the same mode as the timed calls.
    assert compilations == ["prepare"]


def test_draws_of_other_seeds_compile_nothing(compilations: list[str]) -> None:
    """Random blocks are data of the kernel: the errors over seeds need one compilation."""
    row = measure(
        variant="bigbird",
        implementation="flex",
        hyperparameters="block_size=8 num_global_blocks=2 num_random_blocks=1 seed=0",
        seq_len=80,
    )
    assert row.status is Status.OK, row.reason
    assert row.approx_error_seed_std is None or row.approx_error_seed_std > 0
    assert compilations == ["prepare"]


def test_a_case_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current_shape, "measure_baselines", lambda *_: {})
    times: list[object] = []
    real = clock.measure

    def measured(*given: Any, **named: Any) -> clock.Samples:
        times.append(given)
        return real(*given, **named)

    monkeypatch.setattr(clock, "measure", measured)
    assert measure().status is Status.OK
    assert len(times) == 1


@pytest.mark.parametrize(
    ("implementation", "status"), [("coarse", Status.OK), ("blocks", Status.IMPLAUSIBLE_TIME)]
)
def test_reduced_precision_is_held_against_the_rate_of_bfloat16(
    implementation: str, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An implementation that rounds operands to bfloat16 may be faster than float32 products."""
    rates = {"float32": 1e-9, "bfloat16": 1e6}

    def measured(device: torch.device, dtypes: list[str], *_: Any) -> dict[str, Any]:
        return {"matmul_tflops": {name: rates[name] for name in dtypes}}

    monkeypatch.setattr(roofline, "measure", measured)
    asked = case(implementation=implementation)
    row, _ = measure_case.measure(asked, settings(matmul_tflops={"float32": 1e-9}))
    assert row.status is status, row.reason
