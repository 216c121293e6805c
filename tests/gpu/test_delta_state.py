"""The Triton kernels of the gated delta rule against the definition, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import variants
from variants.engines.gpu.sums import delta_state, feature_grad_launches, feature_launches

pytestmark = pytest.mark.interpreted

BOUND = {torch.float32: 3e-5, torch.float16: 3e-3}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (feature_launches, feature_grad_launches):
        monkeypatch.setattr(module, "ROWS", 16)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def answers(
    lengths: tuple[int, int],
    heads: tuple[int, int],
    dtype: torch.dtype,
    padding: Tensor | None = None,
    repeated: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients of the kernels, and of the definition in float64."""
    inputs = [
        draw(2, heads[i > 0], lengths[i > 0], 6, seed=i).to(dtype).requires_grad_()
        for i in range(3)
    ]
    if repeated:
        with torch.no_grad():
            inputs[1][:] = inputs[1][:, :, :1]
    parameters = {
        "decay_logit": (draw(heads[0], seed=3) + 2).float().requires_grad_(),
        "write_logit": draw(heads[0], seed=4).float().requires_grad_(),
    }
    attention = variants.create("chunked_state", rule="gated_delta", implementation="triton")
    call = {"causal": True, "key_padding_mask": padding}
    out = attention(*inputs, parameters=parameters, **call)
    leaves = [*inputs, *parameters.values()]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    given = dict(zip(parameters, exact[3:], strict=True))
    weights = attention.weights(*exact[:2], parameters=given, **call)
    right = weights @ exact[2].repeat_interleave(heads[0] // heads[1], 1)
    grad = draw(*out.shape, seed=5).to(dtype)
    found = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    return found, [right.detach(), *torch.autograd.grad(right, exact, grad.double())]


def assert_close(found: list[Tensor], right: list[Tensor], bound: float) -> None:
    for place, (mine, true) in enumerate(zip(found, right, strict=True)):
        error = float((mine.double() - true).norm() / true.norm())
        assert error <= bound * (1 if place == 0 else 3), f"tensor {place}: error {error}"


@pytest.mark.parametrize("dtype", list(BOUND), ids=str)
def test_outputs_and_gradients(dtype: torch.dtype) -> None:
    assert_close(*answers((37, 37), (2, 2), dtype), BOUND[dtype])


@pytest.mark.parametrize("lengths", [(21, 37), (25, 19), (1, 33)])
def test_other_lengths_grouped_heads_and_padding(lengths: tuple[int, int]) -> None:
    padding = torch.rand(2, lengths[1], generator=torch.Generator().manual_seed(3)) < 0.3
    padding[:, -1] = False
    assert_close(*answers(lengths, (4, 2), torch.float32, padding), BOUND[torch.float32])


def test_equal_keys() -> None:
    """The inverse of the triangular system has large terms that cancel if it is a power series."""
    assert_close(*answers((37, 37), (2, 2), torch.float32, repeated=True), 1e-4)


def test_a_call_has_three_launches_and_its_gradient_twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    for module in (delta_state, feature_launches, feature_grad_launches):
        launch = module.launch

        def record(kernel, *arguments, launch=launch, **constants):  # type: ignore[no-untyped-def]
            started.append(kernel.__name__)
            launch(kernel, *arguments, **constants)

        monkeypatch.setattr(module, "launch", record)
    answers((20, 20), (2, 2), torch.float32)
    assert started[:3] == ["delta_chunks", "delta_states", "chunk_outputs"]
    assert len(started) == 15
