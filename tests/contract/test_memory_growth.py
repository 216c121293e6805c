"""Memory grows with the sequence length at the declared rate."""

from __future__ import annotations

import dataclasses
import re
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.contract.attentions import (
    COMPILED,
    attentions,
    supports,
)
from tests.contract.own_value import OwnValue, describe
from tests.contract.shapes import (
    Shape,
)
from variants import Attention, UnsupportedError
from variants.contract.call import Call
from variants.engines.primitives import head_slabs


class Allocations(TorchDispatchMode):
    """Records the tensors that operations return: the largest one, and the peak of all live ones.

    The unit is elements of storage, so a view or an expanded tensor counts as zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.peak = self._now = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._enter(tensor)
        self.peak = max(self.peak, self._now)
        return out

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        self.largest = max(self.largest, size // tensor.element_size())
        if address not in self._live:
            self._live[address] = size
            self._now += size
            weakref.finalize(storage, self._leave, address)

    def _leave(self, address: int) -> None:
        self._now -= self._live.pop(address)


LENGTHS = (512, 2048)


def allocations(attention: Attention, length: int, direction: str, **call: Any) -> tuple[int, int]:
    """Elements of the largest tensor, and the peak of live elements, of one pass."""
    inputs = Shape(1, 1, 1, length, length).tensors(torch.float32)
    for tensor in inputs:
        tensor.requires_grad_(direction == "forward_backward")
    if (mask := call.get("key_padding_mask")) is not None:
        call["key_padding_mask"] = mask[:, :length]
    if call.pop("biased", False):
        bias = Shape(1, 1, 1, length, length).distance_bias(torch.float32)
        call["distance_bias"] = bias.requires_grad_(direction == "forward_backward")
    attention.prepare(*inputs[:2], causal=call.get("causal", False))
    with Allocations() as seen:
        out = attention(*inputs, **call)
        if direction == "forward_backward":
            out.sum().backward()
    return seen.largest, seen.peak


def memory_calls(attention: Attention) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(4)
    mask = torch.rand(1, max(LENGTHS), generator=generator) < 0.2
    return [
        {"causal": causal, "key_padding_mask": mask if padded else None, "biased": biased}
        for causal in attention.info.causal_choices
        for padded, biased in ((False, False), (True, False), (False, True))
        if not padded or supports("key_padding_mask")(attention)
        if not biased or supports("distance_bias")(attention)
    ]


def declares_quadratic(attention: Attention) -> bool:
    return bool(re.search(r"n²|n\^2|n·n(?!\w)", attention.info.memory))


def assert_memory_grows_as_declared(attention: Attention, direction: str, **call: Any) -> None:
    if declares_quadratic(attention):
        return
    short, long = LENGTHS
    _, peak = allocations(attention, short, direction, **call)
    largest, long_peak = allocations(attention, long, direction, **call)
    # No tensor has even a quarter of queries × keys elements.
    assert largest < long**2 // 4, f"a tensor of {largest} elements at length {long}"
    growth = long_peak / peak
    assert growth < 1.5 * long / short, (
        f"memory grows {growth:.1f} times for {long // short} times the length; "
        f"declared {attention.info.memory}"
    )


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are already full at the shorter length, so that they do not grow with the
    length."""
    monkeypatch.setattr(head_slabs, "SCORES_CPU", 1 << 18)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
@pytest.mark.parametrize("attention", attentions("small"))
def test_memory_grows_as_declared(attention: Attention, direction: str) -> None:
    if direction == "forward_backward" and not supports("backward")(attention):
        pytest.skip("does not support backward")
    for call in memory_calls(attention):
        assert_memory_grows_as_declared(attention, direction, **call)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("attention", attentions("small"))
def test_memory_of_a_forward_pass_grows_as_declared_in_every_implementation(
    attention: Attention,
) -> None:
    for name in set(attention.info.implementations) - COMPILED:
        if attention.unavailable(name, torch.device("cpu")) is None:
            named = dataclasses.replace(attention, implementation=name)
            for call in memory_calls(named):
                with suppress(UnsupportedError):
                    assert_memory_grows_as_declared(named, "forward", **call)


class HiddenProduct(torch.autograd.Function):
    """Computes all scores at once where autograd does not record them: in one direction only."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, when: str) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.when = when
        if when == "forward":
            (query @ key.mT).relu()
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        if ctx.when == "backward":
            (query @ key.mT).relu()
        return query, key, value, None


@dataclass(frozen=True)
class SecretlyQuadratic(OwnValue):
    """Declares memory n·d, but needs n²."""

    info = describe("secretly_quadratic", "n·d", {"backward"})
    when: str = "forward"

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        if self.when == "kept":
            # The kernel never holds more than a sixteenth of the scores at once, but autograd saves
            # all.
            return torch.cat(
                [torch.softmax(rows @ key.mT, -1) @ value for rows in query.chunk(16, dim=2)], 2
            )
        return HiddenProduct.apply(query, key, value, self.when)


@pytest.mark.parametrize("when", ["forward", "backward", "kept"])
def test_a_kernel_that_hides_all_scores_is_detected(when: str) -> None:
    with pytest.raises(AssertionError, match=r"elements at length|memory grows"):
        assert_memory_grows_as_declared(SecretlyQuadratic(when=when), "forward_backward")


def test_a_kernel_that_allocates_no_scores_is_not_reported() -> None:
    assert_memory_grows_as_declared(OwnValue(), "forward")
