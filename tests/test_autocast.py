"""Under autocast, calls and layers accept the inputs of torch's own attention and give the same
results."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

import variants
from tests.contract.attentions import attentions, small_settings, supports
from variants import Attention, MultiHeadAttention

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALF)


def tensors(*dtypes: torch.dtype, length: int = 30) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 1, 2, length, 8, generator=generator)
    return [x.to(dtype) for x, dtype in zip(drawn, dtypes, strict=True)]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("attention", attentions("small"))
def test_any_mixture_of_dtypes_is_cast_like_by_hand(
    attention: Attention, half: torch.dtype
) -> None:
    """Gradients have the dtype of each input. One variant is tested with all mixtures, because
    `Attention` does the cast."""
    causal = attention.info.causal_choices[-1]
    mixtures = [*itertools.product(DTYPES, repeat=3)]
    if attention.info.name != "sliding_window":
        mixtures = [(torch.float32,) * 3, (torch.float32, half, torch.float32)]
    for dtypes in mixtures:
        inputs = [x.requires_grad_() for x in tensors(*dtypes)]
        by_hand = [x.detach().to(half).requires_grad_() for x in inputs]
        expected = attention(*by_hand, causal=causal)
        with torch.autocast("cpu", dtype=half):
            out = attention(*inputs, causal=causal)
            weights = attention.weights(*inputs[:2], causal=causal)
        assert out.dtype == half
        assert torch.equal(out, expected)
        assert torch.equal(weights, attention.weights(*by_hand[:2], causal=causal))
        grads = torch.autograd.grad(out.float().square().sum(), inputs)
        hands = torch.autograd.grad(expected.float().square().sum(), by_hand)
        assert [x.dtype for x in grads] == list(dtypes)
        for one, other in zip(grads, hands, strict=True):
            assert torch.equal(one, other.to(one.dtype))


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("length", [30, 300])
def test_result_and_error_of_exact_attention_equal_those_of_torch(
    length: int, half: torch.dtype
) -> None:
    for dtypes in itertools.product(DTYPES, repeat=3):
        inputs = tensors(*dtypes, length=length)
        exact = scaled_dot_product_attention(*(x.double() for x in inputs))
        with torch.autocast("cpu", dtype=half):
            own = scaled_dot_product_attention(*inputs)
            found = variants.create("full")(*inputs)
        assert found.dtype == own.dtype
        assert relative(found, exact) < 1.2 * relative(own, exact)


def test_float64_is_not_cast() -> None:
    """Torch's own attention does not cast it either; both raise for a mixture with another
    dtype."""
    inputs = tensors(torch.float64, torch.float64, torch.float64)
    attention = variants.create("sliding_window")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention(*inputs), attention(*inputs))
        assert attention(*inputs).dtype == torch.float64
        with pytest.raises(RuntimeError):
            scaled_dot_product_attention(inputs[0], inputs[1].float(), inputs[2])
        with pytest.raises(ValueError, match=r"share one dtype .* torch.bfloat16, torch.float64"):
            attention(inputs[0], inputs[1].float(), inputs[2])


def test_without_autocast_dtypes_must_agree() -> None:
    with pytest.raises(ValueError, match="share one dtype"):
        variants.create("full")(*tensors(torch.float32, torch.float32, torch.bfloat16))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=False),
        pytest.raises(ValueError, match="share one dtype"),
    ):
        variants.create("full")(*tensors(torch.float32, torch.float32, torch.bfloat16))


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("attention", attentions("small", where=supports("distance_bias")))
def test_a_distance_bias_of_any_dtype_is_accepted(attention: Attention, half: torch.dtype) -> None:
    """The bias is added to float32 scores."""
    inputs = tensors(torch.float32, half, torch.float32)
    bias = torch.randn(2, 59, requires_grad=True)
    with torch.autocast("cpu", dtype=half):
        out = attention(*inputs, causal=True, distance_bias=bias)
    expected = attention(*(x.to(half) for x in inputs), causal=True, distance_bias=bias)
    assert torch.equal(out, expected)
    (grad,) = torch.autograd.grad(out.float().sum(), bias)
    assert (grad.dtype, bool(grad.any())) == (torch.float32, True)


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("attention", attentions("small", where=supports("step")))
def test_decoding_under_autocast(attention: Attention, half: torch.dtype) -> None:
    """A state has the dtype of autocast, independent of the dtype of the tokens."""
    inputs = tensors(torch.float32, half, torch.float32)
    expected = attention(*(x.to(half) for x in inputs), causal=True)
    with torch.no_grad(), torch.autocast("cpu", dtype=half):
        out, state = attention.prefill(*(x[:, :, :20] for x in inputs))
        last, state = attention.step(state, *(x[:, :, 20:] for x in inputs))
    assert {out.dtype, last.dtype, state.dtype} == {half}
    bound = 0.02 if half is torch.bfloat16 else 0.003
    assert relative(torch.cat([out, last], 2), expected.double()) < bound
    with torch.no_grad(), pytest.raises(ValueError, match="must match the earlier tokens"):
        attention.step(state, *tensors(torch.float32, torch.float32, torch.float32))


def layers() -> list[Any]:
    """The sliding window with every position encoding, the other attentions with one."""
    found = []
    for case in attentions("small"):
        one = case.values[0].info.name == "sliding_window"
        names = [None, "rotary", "sinusoidal", "relative_bias"] if one else ["rotary"]
        found += [pytest.param(*case.values, name, id=f"{case.id}-{name}") for name in names]
    return found


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize(("attention", "position"), layers())
def test_one_training_step_of_a_layer(
    attention: Attention, position: str | None, half: torch.dtype
) -> None:
    shared = bool(getattr(attention, "shared_qk", False))
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 2, attention=attention, position=position, shared_qk=shared)
    hidden = torch.randn(2, 20, 16)
    causal = attention.info.causal_choices[-1]
    before = [x.detach().clone() for x in layer.parameters()]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with torch.autocast("cpu", dtype=half):
        out = layer(hidden, causal=causal)
        loss = out.float().square().mean()
    assert out.dtype == half
    loss.backward()
    optimizer.step()
    for parameter in layer.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert bool(parameter.isfinite().all())
    assert any(not torch.equal(x, old) for x, old in zip(layer.parameters(), before, strict=True))


def test_autocast_does_not_affect_operations_inside_a_kernel() -> None:
    """Sums over thousands of keys stay in float32; a half type would lose digits."""
    inputs = tensors(torch.float32, torch.float32, torch.float32, length=3000)
    rounded = [x.bfloat16().float() for x in inputs]
    attention = variants.create("linear")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(*inputs, causal=True)
    expected = attention(*rounded, causal=True)
    assert_close(out, expected.bfloat16())


@pytest.mark.parametrize("name", ["top_k", "sliding_window", "linear", "lsh", "chunked_state"])
def test_autocast_around_a_backward_pass_does_not_reach_into_a_kernel(name: str) -> None:
    """One variant of each engine: gradients of a float32 call stay those of float32 products."""
    attention = variants.create(name, **small_settings(name))
    inputs = [x.requires_grad_() for x in tensors(*[torch.float32] * 3)]
    causal = attention.info.causal_choices[-1]
    expected = torch.autograd.grad(attention(*inputs, causal=causal).sum(), inputs)
    out = attention(*inputs, causal=causal)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(out.sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
