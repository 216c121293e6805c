"""The Triton kernels of feature sums against the definitions, in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from variants.engines.gpu import launches
from variants.engines.gpu.sums import feature_grad_launches, feature_launches

pytestmark = pytest.mark.interpreted

BOUND = {torch.float32: 2e-5, torch.float16: 2e-3}
METHODS = {
    "elu": ("linear", {}),
    "relu": ("linear", {"feature_map": "relu"}),
    "performer": ("performer", {"num_features": 24}),
    "retention": ("chunked_state", {}),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 rows and blocks of 16 features, so that short inputs have several."""
    for module in (feature_launches, feature_grad_launches):
        monkeypatch.setattr(module, "ROWS", 16)
    monkeypatch.setattr(feature_launches, "FEATURES", 16)
    monkeypatch.setattr(feature_launches, "SCANNED", 128)


def tensors(
    lengths: tuple[int, int], heads: tuple[int, int] = (2, 2), head_dim: int = 6, batch: int = 1
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(batch, heads[i > 0], lengths[i > 0], head_dim) for i in range(3)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def answers(
    name: str, inputs: list[Tensor], dtype: torch.dtype, **call: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients of the kernels, and of the definition in float64."""
    variant, settings = METHODS[name]
    attention = variants.create(variant, implementation="triton", **settings)
    given = [x.to(dtype).requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in given]
    out = attention(*given, **call)
    query, key, value = exact
    group = query.shape[1] // value.shape[1]
    right = attention.weights(query, key, **call) @ value.repeat_interleave(group, 1)
    generator = torch.Generator().manual_seed(2)
    grad = torch.randn(out.shape, generator=generator).to(dtype)
    found = [out.detach(), *torch.autograd.grad(out, given, grad)]
    return found, [right.detach(), *torch.autograd.grad(right, exact, grad.double())]


def assert_close(found: list[Tensor], right: list[Tensor], bound: float) -> None:
    for place, (mine, true) in enumerate(zip(found, right, strict=True)):
        assert mine.isfinite().all()
        error = float((mine.double() - true).norm() / true.norm().clamp(min=1e-30))
        assert error <= bound * (1 if place == 0 else 3), f"tensor {place}: error {error}"


@pytest.mark.parametrize("dtype", list(BOUND), ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_outputs_and_gradients(name: str, causal: bool, dtype: torch.dtype) -> None:
    if name == "retention" and not causal:
        pytest.skip("causal only")
    found, right = answers(name, tensors((37, 37)), dtype, causal=causal)
    assert_close(found, right, BOUND[dtype])


@pytest.mark.parametrize(
    ("lengths", "causal"), [((21, 37), True), ((40, 19), True), ((1, 33), True), ((40, 19), False)]
)
@pytest.mark.parametrize("name", METHODS)
def test_other_lengths_grouped_heads_and_padding(
    name: str, lengths: tuple[int, int], causal: bool
) -> None:
    if name == "retention" and not causal:
        pytest.skip("causal only")
    inputs = tensors(lengths, (4, 2), batch=2)
    padding = torch.rand(2, lengths[1], generator=torch.Generator().manual_seed(3)) < 0.3
    padding[0, 0] = True
    padding[:, -1] = False
    padding = padding.T.contiguous().T  # a mask need not be contiguous
    call = {"causal": causal, "key_padding_mask": padding, "scale": 0.7}
    found, right = answers(name, inputs, torch.float32, **call)
    assert_close(found, right, BOUND[torch.float32])


@pytest.mark.parametrize("name", METHODS)
def test_layouts_of_a_layer(name: str) -> None:
    """Heads beside each other in memory, as a projection leaves them."""
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors((20, 20))]
    found, right = answers(name, inputs, torch.float32, causal=True)
    assert_close(found, right, BOUND[torch.float32])


@pytest.mark.parametrize("name", METHODS)
def test_operands_in_a_half_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU in bfloat16, whose products the interpreter cannot compute."""
    monkeypatch.setattr(feature_launches, "operands", lambda dtype: (dtype, "ieee"))
    found, right = answers(name, tensors((37, 37), head_dim=16), torch.float16, causal=True)
    assert_close(found, right, BOUND[torch.float16])


@pytest.mark.parametrize("dtype", list(BOUND), ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_random_features_of_large_inputs_stay_in_range(causal: bool, dtype: torch.dtype) -> None:
    """Exponents of several hundreds, which differ between keys by as much."""
    inputs = tensors((40, 40), head_dim=16)
    inputs[0], inputs[1] = (20 * x / x.norm(dim=-1, keepdim=True) for x in inputs[:2])
    found, right = answers("performer", inputs, dtype, causal=causal)
    assert all(x.isfinite().all() for x in found)
    # The rounding error of an exponent multiplies its feature.
    assert_close(found[:1], right[:1], 1e-3 if dtype is torch.float32 else 0.3)
    attention = variants.create("performer", implementation="triton", num_features=24)
    query, key, value = (x.to(dtype) for x in inputs)
    assert_ones(attention(query, key, torch.ones_like(value), causal=causal))


def assert_ones(sums: Tensor) -> None:
    torch.testing.assert_close(sums.double(), torch.ones_like(sums).double(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", METHODS)
def test_later_keys_change_no_causal_row(name: str) -> None:
    variant, settings = METHODS[name]
    attention = variants.create(variant, implementation="triton", **settings)
    query, key, value = (x.float() for x in tensors((40, 40)))
    before = attention(query, key, value, causal=True)
    key[:, :, 20:] *= 30
    value[:, :, 20:] = 7
    after = attention(query, key, value, causal=True)
    assert torch.equal(before[:, :, :20], after[:, :, :20])


@pytest.mark.parametrize("name", METHODS)
def test_a_call_has_three_launches_and_its_gradient_six(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def record(kernel: Any, *arguments: Any, **constants: Any) -> None:
        started.append(kernel.__name__)
        launches.launch(kernel, *arguments, **constants)

    for module in (feature_launches, feature_grad_launches):
        monkeypatch.setattr(module, "launch", record)
    answers(name, tensors((40, 40)), torch.float32, causal=True)
    forward = ["chunk_states", "scan_states", "chunk_outputs"]
    assert started[:3] == forward
    gradient = ["query_gradient", "gradient_terms", "scan_states", "key_gradient"]
    assert started[3:] == [*forward[:2], *gradient]
