"""The Triton kernel of nystrom against the definition, in Triton's interpreter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import variants
from tests.contract.answers import own_answer, with_gradients
from tests.contract.shapes import Shape
from tests.contract.test_rounding import assert_rounding_is_that_of_sdpa
from variants import UnsupportedError
from variants.contract.device import pretended_gpu

pytestmark = pytest.mark.interpreted


def on_gpu(attention: variants.Attention, *inputs: Tensor, **call: Tensor) -> Tensor:
    with pretended_gpu("cpu"):
        assert attention.choose_implementation(inputs[0], inputs[1]) == "triton"
        return attention(*inputs, **call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_landmarks", [8, 20])
def test_rounding(num_landmarks: int, dtype: torch.dtype) -> None:
    attention = variants.create("nystrom", num_landmarks=num_landmarks)
    inputs = Shape(2, 4, 2, 300, 300, head_dim=32).tensors(dtype)
    softmax = partial(scaled_dot_product_attention, enable_gqa=True)
    own = partial(own_answer, attention)
    assert_rounding_is_that_of_sdpa(softmax, partial(on_gpu, attention), own, inputs, "cpu")


@pytest.mark.parametrize("lengths", [(37, 37), (30, 37), (37, 6), (5, 37)])
def test_other_lengths_and_padding(lengths: tuple[int, int]) -> None:
    attention = variants.create("nystrom", num_landmarks=8)
    shape = Shape(3, 4, 2, *lengths)
    inputs = shape.tensors(torch.float16)
    for padding in (None, shape.padding()):
        call = {"key_padding_mask": padding}
        found = with_gradients(partial(on_gpu, attention, **call), inputs)
        right = with_gradients(
            lambda *x, call=call: own_answer(attention, *x, **call), [x.double() for x in inputs]
        )
        for mine, true in zip(found, right, strict=True):
            error = float((mine.double() - true).norm() / true.norm().clamp(min=1e-6))
            assert error <= 5e-3


def test_calls_without_a_kernel() -> None:
    inputs = Shape(1, 2, 2, 80, 80).tensors(torch.float32)
    attention = variants.create("nystrom", num_landmarks=8, implementation="triton")
    with pytest.raises(UnsupportedError, match="no kernel for 8 channels in float32"):
        attention(*inputs)
    with pretended_gpu("cpu"):
        for name, settings in (("nystrom", {"num_landmarks": 8}), ("linear", {})):
            chosen = variants.create(name, **settings)
            assert chosen.choose_implementation(inputs[0], inputs[1]) == (
                "products" if name == "nystrom" else "triton"
            )
            wide = inputs[0].double()
            assert chosen.choose_implementation(wide, wide) != "triton"
