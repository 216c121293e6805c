"""The GPU code of linformer and nystrom on CPU tensors, against the definitions."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import variants
from tests.contract.answers import own_answer, with_gradients
from tests.contract.shapes import Shape
from tests.contract.test_rounding import assert_rounding_is_that_of_sdpa
from variants.contract.device import pretended_gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SETTINGS = {"linformer": {"projected_len": 8}, "nystrom": {"num_landmarks": 8}}


@pytest.fixture(autouse=True)
def half_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no products of half types with float32 results."""
    real = torch.bmm

    def bmm(left: Tensor, right: Tensor, out_dtype: Any = None, *, out: Any = None) -> Tensor:
        if out_dtype is None:
            return real(left, right, out=out) if out is not None else real(left, right)
        found = real(left.to(out_dtype), right.to(out_dtype))
        return found if out is None else out.copy_(found)

    monkeypatch.setattr(torch, "bmm", bmm)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_rounding(name: str, dtype: torch.dtype) -> None:
    attention = variants.create(name, **SETTINGS[name])
    inputs = Shape(2, 4, 2, 300, 300, head_dim=32).tensors(dtype)
    softmax = partial(scaled_dot_product_attention, enable_gqa=True)

    def kernel(*inputs: Tensor) -> Tensor:
        with pretended_gpu("cpu"):
            return attention(*inputs)

    own = partial(own_answer, attention)
    assert_rounding_is_that_of_sdpa(softmax, kernel, own, inputs, "cpu")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("lengths", [(37, 37), (30, 37), (37, 6), (5, 37)])
def test_other_lengths_and_padding(name: str, lengths: tuple[int, int]) -> None:
    attention = variants.create(name, **SETTINGS[name])
    shape = Shape(3, 4, 2, *lengths)
    call = {"key_padding_mask": shape.padding()}
    inputs = shape.tensors(torch.float32)
    wide = [x.double() for x in inputs]
    with pretended_gpu("cpu"):
        found = with_gradients(lambda *x: attention(*x, **call), inputs)
    right = with_gradients(lambda *x: own_answer(attention, *x, **call), wide)
    for mine, true in zip(found, right, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=2e-4, atol=2e-4)
