"""Rounding, numeric range and devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from tests.contract.answers import own_answer, with_gradients
from tests.contract.attentions import (
    attentions,
    attentions_and_dtypes,
    supports,
)
from tests.contract.shapes import (
    CUDA,
    ODD,
    SHAPES,
    Shape,
    calls,
)
from variants import Attention

# Error of a kernel against float64, divided by the error of torch SDPA with the same inputs in the
# same dtype. In half precision a kernel here accumulates in float32 and rounds only the result;
# SDPA on a CPU also rounds the weights to the half type. The measured ratios are therefore 0.7 to
# 0.9 for outputs and 0.4 to 1.0 for gradients, and 1.3 where a key is normalised in the half type
# and so rounded once more. In float32 the ratios are 0.4 to 1.3, but 2.9 for random features,
# because their exponents are larger than softmax's scores and multiply their own rounding error. A
# kernel that keeps all tensors in a half type has ratios of 3 to 8 in the worst of the four.
TIMES_SDPA = {torch.float32: 4.0, torch.bfloat16: 2.0, torch.float16: 2.0}
PRECISION = Shape(2, 4, 2, 300, 300, head_dim=32)


Function = Callable[..., Tensor]


def assert_rounding_is_that_of_sdpa(
    softmax: Function, kernel: Function, own: Function, inputs: Sequence[Tensor], device: str
) -> list[Tensor]:
    """Compare output and gradients of a kernel with its definition in float64 on the CPU. Returns
    those of the kernel."""
    wide = [x.double() for x in inputs]
    placed = [x.to(device) for x in inputs]
    cotangent = torch.randn(wide[0].shape, generator=torch.Generator().manual_seed(2))
    cotangent = cotangent.to(inputs[0].dtype)
    exact = with_gradients(softmax, wide, cotangent)
    # The exact gradient of a method may be zero; then the error is compared with a thousandth of
    # softmax's gradient.
    least = [float(tensor.norm()) / 1000 for tensor in exact]

    def errors(found: Sequence[Tensor], right: Sequence[Tensor]) -> list[float]:
        return [
            float((mine.cpu().double() - true).norm() / max(float(true.norm()), floor))
            for mine, true, floor in zip(found, right, least, strict=True)
        ]

    found = with_gradients(kernel, placed, cotangent)
    mine = errors(found, with_gradients(own, wide, cotangent.double()))
    theirs = errors(with_gradients(softmax, placed, cotangent), exact)
    assert {(x.dtype, x.device.type) for x in found} == {(inputs[0].dtype, device)}
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    assert max(ratios) <= TIMES_SDPA[inputs[0].dtype], f"times SDPA's error: {ratios}"
    return found


def attentions_and_directions(*words: str) -> list[Any]:
    # At the smallest hyperparameters whole gradients cancel (one feature, one visible key), so the
    # relative error of the remainder has no meaning.
    return [
        pytest.param(*case.values, causal, id=f"{case.id}-{'causal' if causal else 'all'}")
        for case in attentions("small", where=supports("backward", *words))
        for causal in case.values[0].info.causal_choices
    ]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", list(TIMES_SDPA), ids=str)
@pytest.mark.parametrize(("attention", "causal"), attentions_and_directions())
def test_rounding_is_that_of_torch_sdpa(
    attention: Attention, causal: bool, dtype: torch.dtype, device: str
) -> None:
    softmax = partial(scaled_dot_product_attention, is_causal=causal, enable_gqa=True)
    kernel = partial(attention, causal=causal)
    own = partial(own_answer, attention, causal=causal)
    inputs = PRECISION.tensors(dtype)
    assert_rounding_is_that_of_sdpa(softmax, kernel, own, inputs, device)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", list(TIMES_SDPA), ids=str)
@pytest.mark.parametrize(("attention", "causal"), attentions_and_directions("distance_bias"))
def test_rounding_with_a_bias_is_that_of_torch_sdpa(
    attention: Attention, causal: bool, dtype: torch.dtype, device: str
) -> None:
    """SDPA receives the bias as a mask and rounds it to the dtype of the query. A bias here may
    have a wider dtype."""
    inputs = (*PRECISION.tensors(dtype), PRECISION.distance_bias(dtype))
    rows, keys = torch.arange(PRECISION.query_len)[:, None], torch.arange(PRECISION.key_len)
    entries = keys - rows + PRECISION.query_len - 1
    later = (keys > rows) & causal

    def softmax(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        mask = bias[:, entries.to(bias.device)].masked_fill(later.to(bias.device), -torch.inf)
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask[None], enable_gqa=True
        )

    def biased(function: Function) -> Function:
        return lambda *x: function(*x[:3], causal=causal, distance_bias=x[3])

    own = biased(partial(own_answer, attention))
    found = assert_rounding_is_that_of_sdpa(softmax, biased(attention), own, inputs, device)
    # A bias of a wider dtype is not rounded, and its gradient has its own dtype.
    placed = [x.to(device) for x in inputs]
    mixed = with_gradients(biased(attention), (*placed[:3], placed[3].float()))
    assert [tensor.dtype for tensor in mixed] == [dtype] * 4 + [torch.float32]
    assert torch.equal(mixed[0], found[0])


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(
    ("attention", "dtype"), attentions_and_dtypes(torch.float16, torch.bfloat16, torch.float32)
)
def test_inputs_of_norm_fifty_stay_in_range(
    attention: Attention, dtype: torch.dtype, device: str
) -> None:
    """Scores reach thousands and their exponentials exceed the range of every dtype. No row may
    become NaN, infinite or zero."""
    query, key, value = (
        (50 * x / x.norm(dim=-1, keepdim=True)).to(device, dtype) for x in ODD.tensors()
    )
    for call in calls(attention, ODD):
        mask = call["key_padding_mask"]
        call = {**call, "key_padding_mask": None if mask is None else mask.to(device)}
        run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]
        inputs = query, key, value
        answers = run(lambda *x, call=call: attention(*x, **call), inputs)
        # If the output is not a weighted mean, its definition may exceed the range of a half type.
        beyond: Sequence[Tensor | bool] = [False] * len(answers)
        if not attention.convex:
            wide = [x.double() for x in inputs]
            exact = run(lambda *x, call=call: own_answer(attention, *x, **call), wide)
            beyond = [right.abs() > torch.finfo(dtype).max / 2 for right in exact]
        for tensor, may_be_infinite in zip(answers, beyond, strict=True):
            assert bool((tensor.isfinite() | may_be_infinite).all())
            assert not tensor.isnan().any()
        if call["causal"] and attention.info.exact_when is None:
            # A causal random estimate may subtract only a maximum over earlier keys, so rows can
            # leave the range of float32. These rows are 0.
            continue
        # The sum of each row's weights, as the kernel computes it; 1 or 0 for a weighted mean.
        found = attention(query, key, torch.ones_like(value), **call)[..., 0]
        expected = attention.weights(query.double(), key.double(), **call).sum(-1)
        assert_close(found.double(), expected, rtol=0 if attention.convex else 0.02, atol=0.02)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("attention", attentions(where=supports("backward")))
def test_a_gpu_gives_the_results_of_a_cpu(attention: Attention, device: str) -> None:
    """In float64 the results can differ only if the algorithm differs: other draws, a wrong
    index."""
    for name in ("odd length, grouped heads", "more keys than queries", "more queries than keys"):
        shape = SHAPES[name]
        inputs = shape.tensors()
        asked = calls(attention, shape)
        if supports("distance_bias")(attention):
            asked += [{**call, "distance_bias": shape.distance_bias()} for call in asked]
        for call in asked:
            placed = {
                word: given.to(device) if isinstance(given, Tensor) else given
                for word, given in call.items()
            }
            expected = with_gradients(
                lambda *x, call=call: own_answer(attention, *x, **call), inputs
            )
            found = with_gradients(
                lambda *x, call=placed: attention(*x, **call), [x.to(device) for x in inputs]
            )
            for mine, right in zip(found, expected, strict=True):
                assert_close(mine.cpu(), right)
