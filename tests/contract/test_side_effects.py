"""A call changes no global state, and its result depends only on its arguments."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.answers import with_gradients
from tests.contract.attentions import (
    attentions,
    fresh_draws,
    has_seed,
    plainly,
    supports,
)
from tests.contract.shapes import (
    ODD,
    SQUARE,
    Shape,
    calls,
)
from variants import Attention


def generators() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 (must not change)
        "python": random.getstate(),
    }


def switches() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "route of float32 products": torch.backends.mkldnn.matmul.fp32_precision,
        "grad mode": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fused kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.cudnn_sdp_enabled(),
        ),
    }


# Recorded before the first call, so that a change by an earlier test is detected too.
AT_IMPORT = switches()


@pytest.mark.parametrize("attention", attentions())
def test_a_call_changes_neither_its_inputs_nor_global_state(attention: Attention) -> None:
    attention = fresh_draws(attention, 1001)
    shape = Shape(2, 3, 3, 41, 41, head_dim=7)  # used by no other test: not cached
    for call in calls(attention, shape):
        inputs = [x.requires_grad_("backward" in attention.info.supports) for x in shape.tensors()]
        masks = [call["key_padding_mask"]] if call["key_padding_mask"] is not None else []
        copies = [x.detach().clone() for x in (*inputs, *masks)]
        versions = [x._version for x in (*inputs, *masks)]
        before, threads = generators(), torch.get_num_threads()
        out = attention(*inputs, **call)
        if out.requires_grad:
            out.sum().backward()
        attention.weights(*inputs[:2], **call)
        attention.prepare(*inputs[:2], **call)
        assert generators() == before
        assert switches() == AT_IMPORT
        assert torch.get_num_threads() == threads
        assert [x._version for x in (*inputs, *masks)] == versions
        for tensor, copy in zip((*inputs, *masks), copies, strict=True):
            assert torch.equal(tensor, copy)


@pytest.mark.parametrize("attention", attentions())
def test_two_calls_give_identical_results(attention: Attention) -> None:
    inputs = ODD.tensors(torch.float32)
    for call in calls(attention, ODD):
        first = attention(*inputs, **call)
        assert torch.equal(attention(*inputs, **call), first)
        attention.prepare(*inputs[:2], **call)
        torch.manual_seed(7)
        again = dataclasses.replace(attention)(*inputs, **call)
        assert torch.equal(again, first)


@pytest.mark.parametrize("attention", attentions("small", where=has_seed))
def test_the_draws_depend_only_on_the_seed(attention: Attention) -> None:
    """In the kernel and in the definition; the first call with a seed equals later calls."""
    inputs = SQUARE.tensors()
    for causal in attention.info.causal_choices:
        answers = {}
        for seed in (1002, 1003):
            other = dataclasses.replace(attention, seed=seed)
            answers[seed] = other(*inputs, causal=causal)
            other.prepare(*inputs[:2], causal=causal)
            assert torch.equal(other(*inputs, causal=causal), answers[seed])
        assert not torch.allclose(answers[1002], answers[1003])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("attention", attentions())
@pytest.mark.parametrize(
    ("surroundings", "seed"),
    [(lambda: default_dtype(torch.float64), 1004), (lambda: torch.device("meta"), 1005)],
    ids=["float64", "another device"],
)
def test_the_default_dtype_and_device_do_not_matter(
    attention: Attention, surroundings: Callable[[], AbstractContextManager[Any]], seed: int
) -> None:
    """A program may have set either of the two. The draws of a new seed and all masks follow the
    tensors."""
    attention = fresh_draws(attention, seed)
    inputs = ODD.tensors(torch.float32)
    for call in calls(attention, ODD):
        with surroundings():
            found = attention(*inputs, **call)
            weights = attention.weights(*inputs[:2], **call)
        attention.prepare(*inputs[:2], causal=call["causal"])
        assert found.dtype == weights.dtype == torch.float32
        assert found.device == weights.device == inputs[0].device
        assert torch.equal(found, attention(*inputs, **call))
        assert torch.equal(weights, attention.weights(*inputs[:2], **call))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("attention", attentions("small", where=supports("backward")))
def test_a_first_call_in_inference_mode_does_not_break_training(
    attention: Attention, dtype: torch.dtype
) -> None:
    """Autograd must be able to use the tensors that are cached between calls."""
    attention = fresh_draws(attention, 1006 if dtype is torch.float32 else 1007)
    for shape in (ODD, Shape(1, 2, 2, 9, 9)):
        inputs = shape.tensors(dtype)
        with torch.inference_mode():
            plainly(attention)(*inputs)
        for tensor in with_gradients(plainly(attention), inputs):
            assert bool(tensor.isfinite().all())


@pytest.mark.parametrize("shape", [ODD, Shape(3, 2, 2, 21, 21)], ids=["grouped heads", "heads"])
@pytest.mark.parametrize("attention", attentions())
def test_inputs_need_not_be_contiguous(attention: Attention, shape: Shape) -> None:
    """Transposed from (batch, seq_len, heads, head_dim), sliced, or expanded over heads. Heads
    without groups are processed together across sequences."""
    query, key, value = shape.tensors()
    run = with_gradients if "backward" in attention.info.supports else lambda f, x: [f(*x)]

    def transposed(tensor: Tensor) -> Tensor:
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)

    def sliced(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor.flip(-1)], dim=-1).flatten(-2)[..., ::2]

    shared = [x[:, :1].expand_as(x) for x in (key, value)]
    for call in calls(attention, shape):

        def attend(*inputs: Tensor, call: dict[str, Any] = call) -> Tensor:
            return attention(*inputs, **call)

        expected = run(attend, (query, key, value))
        for layout in (transposed, sliced):
            found = run(attend, [layout(x) for x in (query, key, value)])
            for mine, right in zip(found, expected, strict=True):
                assert_close(mine, right, rtol=1e-12, atol=1e-12)
        expected = run(attend, (query, *(x.contiguous() for x in shared)))
        found = run(attend, (query, *shared))
        for mine, right in zip(found, expected, strict=True):
            assert_close(mine, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", attentions("small", where=supports("backward")))
def test_the_gradient_of_the_output_may_be_an_expanded_scalar(attention: Attention) -> None:
    """Like the gradient that `out.sum().backward()` passes to the output."""
    inputs = ODD.tensors()
    shape = (ODD.batch, ODD.heads, ODD.query_len, ODD.head_dim)
    ones = torch.ones(shape, dtype=torch.float64)
    found = with_gradients(plainly(attention), inputs, torch.ones(()).double().expand(shape))
    for mine, right in zip(found, with_gradients(plainly(attention), inputs, ones), strict=True):
        assert_close(mine, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", attentions("small"))
def test_seeded_parameters_are_the_default(attention: Attention) -> None:
    inputs = ODD.tensors()
    seeded = attention.init_parameters(ODD.heads, ODD.head_dim)
    again = attention.init_parameters(ODD.heads, ODD.head_dim)
    assert seeded.keys() == again.keys()
    for name in seeded:
        assert torch.equal(seeded[name], again[name])
    placed = {name: tensor.double() for name, tensor in seeded.items()}
    attend = plainly(attention)
    assert torch.equal(attend(*inputs), attend(*inputs, parameters=placed))
