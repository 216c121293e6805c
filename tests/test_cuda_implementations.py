"""Implementations from libraries for CUDA: the errors on other devices, and the results on CUDA."""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import variants
from tests.gpu.synchronisation import no_waits
from variants import UnsupportedError
from variants.contract.call import Call
from variants.contract.pattern import Pattern
from variants.engines.libraries import cuda_sdpa, fla, xformers

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
# The bound of rounding errors for an output. A gradient has more roundings, so its bound is larger.
BOUND = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
TIMES = (1, 3, 3, 3)


def tensors(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    query_len: int = 301,
    key_len: int = 301,
    kv_heads: int = 4,
    head_dim: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 4, query_len, head_dim), *((2, kv_heads, key_len, head_dim),) * 2)
    query, key, value = (
        torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes
    )
    return query, key, value


def assert_right(
    attention: variants.Attention,
    inputs: Sequence[Tensor],
    gradients: bool = True,
    **call: Any,
) -> None:
    """Compare output and gradients with the definition in float64; the error is relative to the
    whole tensor."""

    def run(function: Callable[..., Tensor], given: Sequence[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_(gradients) for x in given]
        out = function(*leaves)
        if not gradients:
            return [out]
        generator = torch.Generator().manual_seed(4)
        cotangent = torch.randn(out.shape, generator=generator).to(out)
        return [out.detach(), *torch.autograd.grad(out, leaves, cotangent)]

    def definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = dataclasses.replace(attention, implementation="auto").weights(query, key, **call)
        return weights @ value.repeat_interleave(query.shape[1] // value.shape[1], 1)

    found = run(lambda *given: attention(*given, **call), inputs)
    expected = run(definition, [x.double() for x in inputs])
    for mine, right, times in zip(found, expected, TIMES, strict=False):
        assert mine.dtype == inputs[0].dtype
        error = float((mine.double() - right).norm() / right.norm())
        assert error <= times * BOUND[mine.dtype]


# --- On devices other than CUDA.


@pytest.mark.parametrize(
    ("name", "implementation", "reason"),
    [
        *[
            ("full", kernel, f"torch offers '{kernel}' by name on CUDA only")
            for kernel in cuda_sdpa.KERNELS
        ],
        ("full", "xformers", "xFormers has no operators for a CPU"),
        ("sliding_window", "xformers", "xFormers has no operators for a CPU"),
        ("linear", "fla", "flash-linear-attention has Triton kernels for CUDA only"),
    ],
)
def test_on_a_cpu_they_raise_with_the_reason(name: str, implementation: str, reason: str) -> None:
    query, key, value = tensors(query_len=9, key_len=9)
    attention = variants.create(name, implementation=implementation)
    with pytest.raises(UnsupportedError, match=f"'{implementation}' cannot run here: {reason}"):
        attention(query, key, value, causal=True)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, missing, library in (
        ("fla.ops.linear_attn", fla._missing, "flash-linear-attention cannot be imported"),
        ("xformers.ops", xformers._missing, "xFormers cannot be imported"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        missing.cache_clear()
        assert str(missing()).startswith(library)
        missing.cache_clear()


@pytest.mark.parametrize(
    ("query_len", "call", "said"),
    [
        (9, {"key_padding_mask": torch.zeros(2, 9, dtype=torch.bool)}, "takes no key_padding_mask"),
        (8, {"causal": True}, "as many keys as queries only; got 9 and 8"),
    ],
)
@pytest.mark.parametrize("name", list(cuda_sdpa.KERNELS))
def test_a_named_kernel_refuses_calls_that_torch_computes_wrongly(
    name: str, query_len: int, call: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"'{name}' .*{said}"):
        cuda_sdpa.attend(name, *tensors(query_len=query_len, key_len=9), Call(scale=1.0, **call))


def test_a_named_kernel_reports_that_torch_does_not_take_the_call() -> None:
    """On a CPU it takes no call. The kernels that the program has enabled in torch stay enabled."""
    allowed = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    for name in cuda_sdpa.KERNELS:
        if name == "cudnn" and torch.version.cuda and not torch.cuda.is_available():
            continue  # a CUDA build asks the driver, which is missing here
        with pytest.raises(
            UnsupportedError, match=f"torch's '{name}' kernel does not take this call"
        ):
            cuda_sdpa.attend(name, *tensors(), Call(scale=1.0))
    after = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    assert after == allowed


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("name", list(cuda_sdpa.KERNELS))
def test_a_named_kernel_is_called_without_changes_to_the_kernels_that_torch_may_choose(
    name: str, head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On fake tensors, which need no GPU."""
    calls = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: Any = (), named: Any = None
        ) -> Any:
            allowed = (
                torch.backends.cuda.flash_sdp_enabled(),
                torch.backends.cuda.math_sdp_enabled(),
            )
            calls.append((function.overloadpacket.__name__, allowed))
            return function(*arguments, **(named or {}))

    monkeypatch.setattr(cuda_sdpa, "_refusal", lambda *_: None)
    with FakeTensorMode(), torch.no_grad(), Watch():
        query, key, value = (
            torch.empty(2, 4, 301, head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(3)
        )
        out = cuda_sdpa.attend(name, query, key, value, Call(causal=True, scale=0.1))
    assert out.shape == query.shape
    operations = [operation for operation, _ in calls if "attention" in operation]
    assert operations == [f"_scaled_dot_product_{name}_attention"]
    # A context manager that selects one kernel would disable the others.
    assert {allowed for _, allowed in calls} == {(True, True)}


@pytest.mark.parametrize("name", list(cuda_sdpa.KERNELS))
def test_a_named_kernel_has_gradients_and_accepts_any_width(name: str) -> None:
    inputs = [
        torch.empty(2, 4, 301, 60, device="meta", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    out = cuda_sdpa._run(name, *inputs, True, 0.1)
    assert out.shape == inputs[0].shape
    gradients = torch.autograd.grad(out, inputs, torch.ones_like(out))
    assert [x.shape for x in gradients] == [x.shape for x in inputs]


class Elsewhere:
    """The attributes that the choice of a kernel reads, for a tensor on a device that is not
    present."""

    def __init__(self, dtype: torch.dtype, seq_len: int = 64, head_dim: int = 64) -> None:
        self.device = torch.device("cuda")
        self.dtype, self.shape = dtype, (1, 2, seq_len, head_dim)


@pytest.mark.parametrize(
    ("tensor", "key_len", "capability", "taken", "chosen"),
    [
        (Elsewhere(torch.bfloat16), 64, (9, 0), {"cudnn", "flash"}, "cudnn"),
        (Elsewhere(torch.float16, head_dim=128), 64, (10, 0), {"cudnn", "flash"}, "cudnn"),
        (Elsewhere(torch.bfloat16), 64, (9, 0), {"flash"}, "flash"),
        (Elsewhere(torch.bfloat16), 64, (9, 0), set(), None),
        (Elsewhere(torch.bfloat16), 64, (8, 0), {"cudnn", "flash"}, "flash"),
        (Elsewhere(torch.bfloat16, head_dim=256), 64, (9, 0), {"cudnn", "flash"}, "flash"),
        (Elsewhere(torch.float32), 64, (9, 0), {"cudnn", "flash"}, None),
        (Elsewhere(torch.bfloat16), 65, (9, 0), {"cudnn", "flash"}, None),
    ],
)
def test_the_kernel_for_a_gpu_follows_a_fixed_rule(
    tensor: Any,
    key_len: int,
    capability: tuple[int, int],
    taken: set[str],
    chosen: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(cuda_sdpa, "_takes", lambda name, *tensors, causal: name in taken)
    key = Elsewhere(tensor.dtype, key_len, tensor.shape[-1])
    assert cuda_sdpa.fastest(tensor, key) == chosen  # type: ignore[arg-type]
    expected = chosen or "sdpa"
    assert variants.create("full").choose_implementation(tensor, key) == expected  # type: ignore[arg-type]
    plain = variants.create("full", implementation="plain")
    assert plain.choose_implementation(tensor, key) == "plain"  # type: ignore[arg-type]


def test_padding_uses_a_kernel_with_correct_masks_even_if_another_is_fastest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_sdpa, "fastest", lambda query, key: "flash")
    query, key, value = tensors(query_len=9, key_len=9)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[:, 2:5] = True
    attention = variants.create("full")
    weights = attention.weights(query, key, key_padding_mask=padding)
    assert_close(attention(query, key, value, key_padding_mask=padding), weights @ value)


# --- The window in xFormers' own definition of its mask.


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 5, 1 << 40])
@pytest.mark.parametrize(("query_len", "key_len"), [(12, 12), (7, 12), (1, 12)])
def test_the_window_is_that_of_xformers(
    causal: bool, window: int, query_len: int, key_len: int
) -> None:
    pattern = Pattern(query_len, key_len, causal, window=window)
    shown = xformers.window_bias(pattern).materialize((query_len, key_len)) == 0
    assert torch.equal(shown, pattern.mask(torch.arange(query_len))[0])


@pytest.mark.parametrize(
    "more",
    [{"leading": 2}, {"trailing": 1}, {"block_size": 4}, {"random_blocks": torch.ones(1, 3, 1)}],
)
def test_xformers_refuses_patterns_with_more_than_a_window(more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="windows of tokens only"):
        xformers.window_bias(Pattern(12, 12, True, window=1, **more))


def test_xformers_refuses_padding_and_rows_that_see_no_key() -> None:
    query, key, value = tensors(query_len=9, key_len=8)
    pattern = Pattern(9, 8, False, window=2)
    with pytest.raises(UnsupportedError, match=r"key_len of at least query_len.* got 8 and 9"):
        xformers.attend_window(query, key, value, pattern, Call(scale=1.0))
    padding = torch.zeros(2, 8, dtype=torch.bool)
    with pytest.raises(UnsupportedError, match="takes no key_padding_mask"):
        xformers.attend(key, key, value, Call(key_padding_mask=padding, scale=1.0))


# --- flash-linear-attention, for the parts that can be tested without its kernels.


@pytest.mark.parametrize(
    ("dtype", "lengths", "causal", "said"),
    [
        (torch.bfloat16, (9, 9), False, "is causal only"),
        (torch.bfloat16, (8, 9), True, "as many keys as queries only; got 9 and 8"),
        (torch.float16, (9, 9), True, "accuracy of bfloat16 only; got float16"),
        (torch.float32, (9, 9), True, "accuracy of bfloat16 only; got float32"),
    ],
)
def test_fla_refuses_calls_that_it_computes_wrongly(
    dtype: torch.dtype, lengths: tuple[int, int], causal: bool, said: str
) -> None:
    query, key, value = tensors(dtype=dtype, query_len=lengths[0], key_len=lengths[1])
    with pytest.raises(UnsupportedError, match=f"'fla' .*{said}"):
        fla.attend(query, key, value, causal=causal)


@pytest.mark.parametrize("feature_map", ["elu", "relu"])
def test_fla_receives_features_in_its_own_layout(
    feature_map: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replacement for the library that computes the function of its documentation."""

    def chunk_linear_attn(
        q: Tensor, k: Tensor, v: Tensor, scale: float, normalize: bool
    ) -> tuple[Tensor, None]:
        assert (q.shape, k.shape, v.shape) == ((2, 301, 4, 64),) * 3
        assert q.is_contiguous()
        assert normalize
        q, k, wide = (x.double().transpose(1, 2) for x in (q, k, v))
        kernel = (scale * q @ k.mT).tril()
        out = kernel @ wide / (kernel.sum(-1, keepdim=True) + 1e-10)
        return out.transpose(1, 2).to(v.dtype), None

    module = type(sys)("fla.ops.linear_attn")
    monkeypatch.setattr(module, "chunk_linear_attn", chunk_linear_attn, raising=False)
    monkeypatch.setitem(sys.modules, "fla.ops.linear_attn", module)
    monkeypatch.setattr(fla, "unavailable", lambda device: None)
    attention = variants.create("linear", implementation="fla", feature_map=feature_map)
    padding = torch.zeros(2, 301, dtype=torch.bool)
    padding[0, 3:50] = True
    inputs = tensors(dtype=torch.bfloat16, kv_heads=2)
    for call in ({}, {"scale": 0.5, "key_padding_mask": padding}):
        assert_right(attention, inputs, causal=True, **call)


# --- On a GPU.


def here(attention: variants.Attention, device: str) -> variants.Attention:
    reason = attention.unavailable(attention.implementation, torch.device(device))
    if reason is not None:
        pytest.skip(reason)
    return attention


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("dtype", list(BOUND), ids=str)
@pytest.mark.parametrize("implementation", [*cuda_sdpa.KERNELS, "xformers", "auto"])
def test_full_attention_on_a_gpu(
    implementation: str,
    dtype: torch.dtype,
    kv_heads: int,
    head_dim: int,
    causal: bool,
    device: str,
) -> None:
    attention = here(variants.create("full", implementation=implementation), device)
    inputs = tensors(device, dtype, kv_heads=kv_heads, head_dim=head_dim)
    try:
        attention(*inputs, causal=causal)
    except UnsupportedError as error:
        assert implementation != "auto"
        pytest.skip(str(error))
    assert_right(attention, inputs, causal=causal)


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("dtype", list(BOUND), ids=str)
@pytest.mark.parametrize(("query_len", "key_len"), [(301, 301), (40, 301), (301, 40)])
def test_the_fastest_kernel_on_a_gpu_is_correct_with_padding_and_different_lengths(
    query_len: int, key_len: int, dtype: torch.dtype, device: str
) -> None:
    inputs = tensors(device, dtype, query_len=query_len, key_len=key_len, kv_heads=2)
    padding = torch.zeros(2, key_len, dtype=torch.bool, device=device)
    padding[0, 3:30] = True
    padding[1] = True
    for mask in (None, padding):
        assert_right(variants.create("full"), inputs, causal=True, key_padding_mask=mask)


@pytest.mark.parametrize("device", [GPU])
def test_half_types_on_a_recent_gpu_use_a_named_kernel(device: str) -> None:
    query, key, _ = tensors(device, torch.bfloat16)
    chosen = variants.create("full").choose_implementation(query, key)
    if torch.cuda.get_device_capability() >= (9, 0):
        assert chosen == "cudnn"
    else:
        assert chosen in ("flash", "sdpa")


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("query_len", [301, 40])
@pytest.mark.parametrize("dtype", list(BOUND), ids=str)
def test_a_window_of_xformers_on_a_gpu(
    dtype: torch.dtype, query_len: int, kv_heads: int, causal: bool, device: str
) -> None:
    attention = here(
        variants.create("sliding_window", window_size=20, implementation="xformers"), device
    )
    inputs = tensors(device, dtype, query_len=query_len, kv_heads=kv_heads)
    try:
        attention(*inputs, causal=causal)
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert_right(attention, inputs, causal=causal, scale=1 / math.sqrt(50))


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("feature_map", ["elu", "relu"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_linear_attention_of_fla_on_a_gpu(
    padded: bool, kv_heads: int, feature_map: str, device: str
) -> None:
    attention = here(
        variants.create("linear", implementation="fla", feature_map=feature_map), device
    )
    padding = torch.zeros(2, 301, dtype=torch.bool, device=device)
    padding[0, 3:50] = True
    inputs = tensors(device, torch.bfloat16, kv_heads=kv_heads)
    assert_right(attention, inputs, causal=True, key_padding_mask=padding if padded else None)


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        *[("full", kernel) for kernel in (*cuda_sdpa.KERNELS, "xformers", "auto")],
        *[(name, "flex") for name in ("sliding_window", "longformer", "bigbird")],
        ("sliding_window", "xformers"),
        ("linear", "fla"),
    ],
)
def test_a_second_call_does_not_wait_for_the_gpu(
    name: str, implementation: str, device: str
) -> None:
    """A synchronisation inside a call would be part of its measured time."""
    attention = here(variants.create(name, implementation=implementation), device)
    inputs = [
        x.requires_grad_() for x in tensors(device, torch.bfloat16, query_len=1024, key_len=1024)
    ]

    def call() -> None:
        out = attention(*inputs, causal=True)
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    call()
    with no_waits():
        call()


def test_the_warning_of_torch_about_its_mode_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        if not modes:
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with no_waits():
            assert modes == ["error"]
    assert modes == ["error", "default"]
