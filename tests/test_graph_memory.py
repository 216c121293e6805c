"""Tensors that stay in memory for a backward pass, and after it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import variants
from bench.instruments.memory import saved_bytes
from tests.contract.attentions import attentions, small_settings
from variants import REGISTRY, Attention

SMALL_CHANGE = 1024  # the size of numbers and short lists, in bytes
LENGTH = 300  # long enough for the CPU routes that serve only long sequences


def tensors(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 2, 4, LENGTH, 16, generator=generator)
    return [x.to(dtype).clone().requires_grad_() for x in drawn]


def calls() -> list[object]:
    """Every implementation with a gradient here, without padding and with padding on the left."""
    found = []
    for name in sorted(REGISTRY):
        for word in ("auto", *REGISTRY[name].info.implementations[1:]):
            made = variants.create(name, **small_settings(name), implementation=word)
            if made.cannot_run(torch.device("cpu")) is None and word != "flex":
                for padded in (False, True):
                    label = f"{name}-{word}{'-padded' if padded else ''}"
                    found.append(pytest.param(made, padded, id=label))
    return found


def calling(attention: Attention, padded: bool) -> Callable[..., Tensor]:
    mask = torch.zeros(2, LENGTH, dtype=torch.bool)
    mask[1, :37] = True
    causal = attention.info.causal_choices[-1]
    options = {"key_padding_mask": mask} if padded else {}
    return lambda query, key, value: attention(query, key, value, causal=causal, **options)


@pytest.mark.parametrize(("attention", "padded"), calls())
def test_no_tensor_is_kept_after_a_backward_pass(attention: Attention, padded: bool) -> None:
    """While the loss is referenced, as in code that sums losses to report them."""
    call = calling(attention, padded)
    leaves = tensors(torch.bfloat16 if padded else torch.float32)
    inputs = [x * 1 for x in leaves]  # the layout that projections give
    watched = [weakref.ref(x) for x in inputs]
    out = call(*inputs)
    watched.append(weakref.ref(out))
    loss = out.float().square().mean()
    del inputs, out
    loss.backward()
    gc.collect()
    assert [x() for x in watched] == [None] * 4
    assert loss.requires_grad


@pytest.mark.parametrize("attention", attentions("small"))
def test_a_checkpoint_saves_as_much_memory_as_for_torch_attention(attention: Attention) -> None:
    inputs = tensors(torch.float32)

    def own(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value)

    def saved(call: Callable[..., Tensor]) -> int:
        def run() -> Tensor:
            return checkpoint(call, *inputs, use_reentrant=False)

        run()  # tensors that are cached between calls exist by now
        return saved_bytes(run, torch.device("cpu"))

    assert saved(calling(attention, False)) <= saved(own) + SMALL_CHANGE
    assert saved(calling(attention, True)) <= saved(own) + SMALL_CHANGE


@pytest.mark.parametrize(("attention", "padded"), calls())
def test_a_checkpoint_gives_the_same_gradients(attention: Attention, padded: bool) -> None:
    call = calling(attention, padded)
    inputs = tensors(torch.float32)
    expected = torch.autograd.grad(call(*inputs).square().sum(), inputs)
    out = checkpoint(call, *inputs, use_reentrant=False)
    found = torch.autograd.grad(out.square().sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("attention", "padded"), calls())
def test_a_retained_graph_may_be_used_again(attention: Attention, padded: bool) -> None:
    inputs = tensors(torch.float32)
    loss = calling(attention, padded)(*inputs).square().sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    again = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, inputs)
