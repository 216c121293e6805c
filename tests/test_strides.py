"""Inputs with any memory layout: transposed, with gaps, overlapping, expanded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.contract.attentions import attentions, small_settings, supports
from variants import REGISTRY, Attention
from variants.contract.strides import readable

BATCH, HEADS, LENGTH, HEAD_DIM = 2, 2, 260, 8


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def overlapping_rows() -> Tensor:
    """Each row begins one element after the previous row."""
    return drawn(BATCH, HEADS, LENGTH + HEAD_DIM - 1).unfold(2, HEAD_DIM, 1)


def overlapping_heads() -> Tensor:
    return drawn(BATCH, HEADS + LENGTH - 1, HEAD_DIM).unfold(1, LENGTH, 1).transpose(2, 3)


def overlapping_sequences() -> Tensor:
    flat = drawn(HEADS * LENGTH * HEAD_DIM + 7)
    return flat.as_strided((BATCH, HEADS, LENGTH, HEAD_DIM), (7, LENGTH * HEAD_DIM, HEAD_DIM, 1))


def channels_first() -> Tensor:
    return drawn(BATCH, HEADS, HEAD_DIM, LENGTH).transpose(2, 3)


def tokens_first() -> Tensor:
    return drawn(LENGTH, BATCH, HEADS, HEAD_DIM).permute(1, 2, 0, 3)


def as_projected() -> Tensor:
    """A third of one projection of query, key and value together."""
    return drawn(BATCH, LENGTH, 3, HEADS, HEAD_DIM)[:, :, 1].transpose(1, 2)


def every_other_channel() -> Tensor:
    return drawn(BATCH, HEADS, LENGTH, 2 * HEAD_DIM)[..., ::2]


def one_head() -> Tensor:
    return drawn(BATCH, 1, LENGTH, HEAD_DIM).expand(-1, HEADS, -1, -1)


def one_row() -> Tensor:
    return drawn(BATCH, HEADS, 1, HEAD_DIM).expand(-1, -1, LENGTH, -1)


def one_channel() -> Tensor:
    return drawn(BATCH, HEADS, LENGTH, 1).expand(-1, -1, -1, HEAD_DIM)


def one_number() -> Tensor:
    return torch.tensor(0.5).expand(BATCH, HEADS, LENGTH, HEAD_DIM)


MADE = [
    overlapping_rows,
    overlapping_heads,
    overlapping_sequences,
    channels_first,
    tokens_first,
    as_projected,
    every_other_channel,
    one_head,
    one_row,
    one_channel,
    one_number,
]
HARDEST = [overlapping_rows, overlapping_heads, one_row, as_projected]


def plain() -> Tensor:
    return drawn(BATCH, HEADS, LENGTH, HEAD_DIM)


def implementations_and_strides() -> list[object]:
    """One variant with all layouts, because `Attention` handles inputs of all variants in the same
    way. Other variants with the most difficult layouts and the layout of a layer."""
    found = []
    for name in sorted(REGISTRY):
        for word in ("auto", *REGISTRY[name].info.implementations[1:]):
            made = variants.create(name, **small_settings(name), implementation=word)
            if made.cannot_run(torch.device("cpu")) is None and word != "flex":
                makes = MADE if (name, word) == ("sliding_window", "auto") else HARDEST
                found += [pytest.param(made, m, id=f"{name}-{word}-{m.__name__}") for m in makes]
    return found


@pytest.mark.parametrize(("attention", "make"), implementations_and_strides())
def test_results_equal_those_of_contiguous_inputs(
    attention: Attention, make: Callable[[], Tensor]
) -> None:
    """For each of query, key, value and the gradient of the output."""
    causal = attention.info.causal_choices[-1]
    for place in range(4):
        given = [plain() * (1 + i) for i in range(4)]
        expected = [x.clone() for x in given]
        given[place] = make()
        expected[place] = make().contiguous()
        results = []
        for *inputs, grad in (given, expected):
            inputs = [x.requires_grad_() for x in inputs]
            out = attention(*inputs, causal=causal)
            results.append((out, *torch.autograd.grad(out, inputs, grad)))
        for one, other in zip(*results, strict=True):
            assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", HARDEST)
@pytest.mark.parametrize("attention", attentions("small", where=supports("step")))
def test_steps_equal_those_of_contiguous_inputs(
    attention: Attention, make: Callable[[], Tensor]
) -> None:
    tensors = [make() for _ in range(3)]
    expected = attention(*(x.contiguous() for x in tensors), causal=True)
    out, state = attention.prefill(*(x[:, :, :100] for x in tensors))
    last, _ = attention.step(state, *(x[:, :, 100:] for x in tensors))
    assert_close(torch.cat([out, last], dim=2), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [channels_first, every_other_channel, overlapping_rows])
def test_inputs_with_strided_channels_are_copied(make: Callable[[], Tensor]) -> None:
    """torch's FlashAttention does not accept them, and its other kernel on a CPU needs quadratic
    memory."""
    assert readable(make()).is_contiguous()


@pytest.mark.parametrize("make", [plain, tokens_first, as_projected, one_head])
def test_readable_inputs_are_not_copied(make: Callable[[], Tensor]) -> None:
    tensor = make()
    assert readable(tensor) is tensor
