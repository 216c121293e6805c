"""The tiles of a GPU, run on CPU tensors: half types stay the operands of products, and all heads
are computed together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract import test_memory_growth, test_rounding
from tests.contract.attentions import attentions, supports
from variants import Attention
from variants.contract.device import pretended_gpu
from variants.engines.libraries import cuda_sdpa
from variants.engines.primitives import head_slabs
from variants.engines.tiled.layouts import all_keys


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU is treated as a GPU. A product with a wider result has exact terms, as on a GPU."""
    real = torch.bmm

    def bmm(left: Tensor, right: Tensor, out_dtype: Any = None, *, out: Any = None) -> Tensor:
        if out_dtype is not None:
            left, right = left.to(out_dtype), right.to(out_dtype)
        return real(left, right) if out is None else real(left, right, out=out)

    monkeypatch.setattr(torch, "bmm", bmm)
    # SDPA on a GPU rounds weights to the half type, as the tiles do there. SDPA on a CPU does not
    # if it has a mask.
    for dtype in (torch.bfloat16, torch.float16):
        monkeypatch.setitem(test_rounding.TIMES_SDPA, dtype, 2.1)
    monkeypatch.setattr(cuda_sdpa, "fastest", lambda *_: None)  # torch chooses the kernel
    with pretended_gpu("cpu"):
        yield


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("attention", "causal"), test_rounding.attentions_and_directions("distance_bias")
)
def test_half_types_with_a_bias_round_as_sdpa(
    attention: Attention, causal: bool, dtype: torch.dtype
) -> None:
    """The scale is not a power of two, so a scaled query would be rounded a second time."""
    test_rounding.test_rounding_with_a_bias_is_that_of_torch_sdpa(attention, causal, dtype, "cpu")


@pytest.mark.parametrize(("attention", "causal"), test_rounding.attentions_and_directions())
def test_half_types_round_as_sdpa(attention: Attention, causal: bool) -> None:
    test_rounding.test_rounding_is_that_of_torch_sdpa(attention, causal, torch.bfloat16, "cpu")


# A few methods that use the buffers in different ways.
BUFFERED = {"sliding_window", "hierarchical", "transformer_xl", "bigbird"}


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are already full at the shorter length, for the narrow heads of the test."""
    monkeypatch.setattr(head_slabs, "SMALLEST_GPU", 1 << 18)
    monkeypatch.setattr(all_keys, "TYPICAL_WIDTH", 16)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("attention", attentions("small", where=lambda x: x.info.name in BUFFERED))
def test_memory_grows_as_declared(attention: Attention) -> None:
    direction = "forward_backward" if supports("backward")(attention) else "forward"
    for call in test_memory_growth.memory_calls(attention):
        test_memory_growth.assert_memory_grows_as_declared(attention, direction, **call)
