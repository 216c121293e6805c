"""The route of float32 products: chosen by the program, read by kernels, never changed by
kernels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import variants
from bench.instruments import accuracy
from variants import Float32Route, choose_float32_route
from variants.engines.primitives import float32_route

SETTINGS: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")


def settings() -> tuple[str, str, str]:
    """All settings of torch that control how float32 matrices are multiplied."""
    cuda = torch.backends.cuda.matmul.fp32_precision
    return torch.get_float32_matmul_precision(), SETTINGS.fp32_precision, cuda


DEFAULTS = "highest", "none", "none"
FAST = "medium", "bf16", "tf32"


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    assert settings() == DEFAULTS
    yield
    float32_route.take("default")


class TestChoice:
    @pytest.mark.parametrize(
        ("errors", "name"),
        [((2e-7, 3e-7), "fast"), ((2e-7, 5e-7), "default"), ((2e-7, 1e-3), "default")],
    )
    def test_the_choice_follows_the_measured_error(
        self, errors: tuple[float, float], name: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(float32_route, "errors", lambda: errors)
        assert choose_float32_route() == Float32Route(name, *errors)
        assert float32_route.present() == name
        assert settings() == (FAST if name == "fast" else DEFAULTS)

    def test_the_default_route_restores_all_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(float32_route, "errors", lambda: (1.0, 1.0))
        assert choose_float32_route().name == "fast"
        assert choose_float32_route("default").name == "default"
        assert settings() == DEFAULTS

    def test_an_unknown_route_is_refused(self) -> None:
        with pytest.raises(ValueError, match="wanted must be 'auto' or 'default'; got 'quick'"):
            choose_float32_route("quick")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="name must be one of default, fast; got 'quick'"):
            float32_route.take("quick")  # type: ignore[arg-type]
        assert settings() == DEFAULTS

    @pytest.mark.parametrize("general", [torch.backends, torch.backends.mkldnn])
    def test_a_restored_route_does_not_hide_a_later_general_setting(self, general: Any) -> None:
        found = general.fp32_precision
        float32_route.take("fast")
        float32_route.take("default")
        try:
            general.fp32_precision = "tf32"
            assert SETTINGS.fp32_precision == "tf32"
        finally:
            general.fp32_precision = found

    def test_both_errors_are_measured_and_the_settings_stay_unchanged(self) -> None:
        for name in ("default", "fast"):
            float32_route.take(name)
            before = settings()
            float32_route.errors.cache_clear()
            default, fast = float32_route.errors()
            assert settings() == before
            assert 1e-9 < default < 1e-6
            assert 1e-9 < fast < 1e-1


class Watch(TorchDispatchMode):
    """Calls a function before each operation, including those of a backward pass."""

    def __init__(self, action: Callable[[], None], names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.action, self.names = action, names

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        if not self.names or function.overloadpacket.__name__ in self.names:
            self.action()
        return function(*arguments, **(named or {}))


def tensors(length: int = 300, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, length, 16, generator=generator).to(dtype) for _ in range(3)]


def implementations() -> list[Any]:
    """Every implementation that runs on a CPU without compilation."""
    return [
        pytest.param(attention, id=f"{name}-{implementation}")
        for name, cls in sorted(variants.REGISTRY.items())
        for implementation in cls.info.implementations
        if implementation != "flex"
        if not (attention := variants.create(name, implementation=implementation)).unavailable(
            implementation, torch.device("cpu")
        )
    ]


class TestKernels:
    @pytest.mark.parametrize("attention", implementations())
    def test_kernels_change_no_setting_at_any_moment(
        self, attention: variants.Attention, route: str
    ) -> None:
        seen = set()
        inputs = tensors()
        for tensor in inputs:
            tensor.requires_grad_("backward" in attention.info.supports)
        causal = attention.info.causal_choices[0]
        with Watch(lambda: seen.add(settings())):
            out = attention(*inputs, causal=causal)
            if out.requires_grad:
                out.sum().backward()
        assert seen == {FAST if route == "fast" else DEFAULTS}

    @pytest.mark.parametrize("name", ["full", "linear", "sliding_window", "lsh", "top_k"])
    def test_kernels_do_not_change_the_products_of_other_threads(self, name: str) -> None:
        left, right = torch.randn(2, 2, 256, 256, generator=torch.Generator().manual_seed(0))
        expected, found = torch.bmm(left, right), []

        def multiply() -> None:
            thread = threading.Thread(target=lambda: found.append(torch.bmm(left, right)))
            thread.start()
            thread.join()

        with Watch(multiply, PRODUCTS):
            variants.create(name)(*tensors(600))
        assert found
        assert all(torch.equal(product, expected) for product in found)
        float32_route.take("fast")
        if torch.equal(torch.bmm(left, right), expected):
            pytest.skip("both routes give the same product here")

    @pytest.mark.parametrize("attention", implementations())
    def test_kernels_are_correct_on_both_routes(
        self, attention: variants.Attention, route: str
    ) -> None:
        if route == "fast" and choose_float32_route().name == "default":
            pytest.skip("this processor's fast route rounds to bfloat16")
        query, key, value = tensors()
        reduced = attention.implementation in attention.info.reduced_precision
        bound = accuracy.rounding("float32", reduced_precision=reduced)
        for causal in attention.info.causal_choices:
            out = attention(query, key, value, causal=causal).double()
            expected = attention.weights(query, key, causal=causal).double() @ value.double()
            assert float((out - expected).norm() / expected.norm()) <= bound

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_full_attention_equals_torch_sdpa_on_the_chosen_route(
        self, dtype: torch.dtype, route: str
    ) -> None:
        inputs = tensors(600, dtype)
        onednn, sdpa = (variants.create("full", implementation=i) for i in ("onednn", "sdpa"))
        assert torch.equal(onednn(*inputs), sdpa(*inputs))


def in_fork(check: Callable[[], bool]) -> bool:
    """Whether a check is true in a forked process."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # _exit ends the child process
        good = False
        try:
            good = check()
        finally:
            os._exit(0 if good else 1)
    return os.waitpid(child, 0)[1] == 0


class TestProcesses:
    # Python warns of a fork beside other threads.
    @pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
    def test_a_forked_process_has_the_route_of_its_parent(self, route: str) -> None:
        expected = settings()

        def check() -> bool:
            variants.create("sliding_window")(*tensors(40))
            return settings() == expected

        assert in_fork(check)
        assert settings() == expected

    @pytest.mark.usefixtures("fast_route")
    def test_a_fresh_process_has_torchs_default_until_it_chooses(self) -> None:
        script = (
            "import torch, variants\n"
            "print(torch.get_float32_matmul_precision())\n"
            "print(variants.choose_float32_route().name)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["highest", choose_float32_route().name]
