"""Calls in traced programs: the program is correct for other data and lengths, and tracing leaves
the process unchanged."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import variants
from tests.contract.attentions import attentions, small_settings
from variants import REGISTRY, Attention, MultiHeadAttention, UnsupportedError
from variants.contract import tensor_cache

Call = Callable[[Tensor, Tensor, Tensor], Tensor]


LENGTH, OTHER = 40, 53


class Module(nn.Module):
    """An attention as a module for torch.export."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.call(query, key, value)


def tensors(length: int, seed: int = 0, **options: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, 4, length, 8, generator=generator)
    return [x.to(**options).contiguous() for x in (query, key[:, :2], value[:, :2])]


def calling(attention: Attention) -> Call:
    causal = attention.info.causal_choices[-1]
    return lambda query, key, value: attention(query, key, value, causal=causal)


def exported(call: Call, inputs: list[Tensor]) -> Call:
    return torch.export.export(Module(call), tuple(inputs)).module()


def exported_strictly(call: Call, inputs: list[Tensor]) -> Call:
    return torch.export.export(Module(call), tuple(inputs), strict=True).module()


def exported_for_any_length(call: Call, inputs: list[Tensor]) -> Call:
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = ({2: length},) * 3
    return torch.export.export(Module(call), tuple(inputs), dynamic_shapes=shapes).module()


def exported_and_loaded(call: Call, inputs: list[Tensor]) -> Call:
    file = io.BytesIO()
    torch.export.save(torch.export.export(Module(call), tuple(inputs)), file)
    file.seek(0)
    return torch.export.load(file).module()


def traced_by(mode: str) -> Callable[[Call, list[Tensor]], Call]:
    return lambda call, inputs: make_fx(call, tracing_mode=mode)(*inputs)


def traced_by_jit(call: Call, inputs: list[Tensor]) -> Call:
    return torch.jit.trace(call, inputs, check_trace=False)


def functionalised(call: Call, inputs: list[Tensor]) -> Call:
    return torch.func.functionalize(call)


TRACERS: dict[str, Callable[[Call, list[Tensor]], Call]] = {
    "export": exported,
    "strict export": exported_strictly,
    "export of any length": exported_for_any_length,
    "export, saved and loaded": exported_and_loaded,
    "make_fx": traced_by("real"),
    "make_fx with fake tensors": traced_by("fake"),
    "make_fx of any length": traced_by("symbolic"),
    "jit.trace": traced_by_jit,
    "functionalize": functionalised,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("attention", attentions("small"))
def test_a_program_is_correct_for_other_data_and_the_process_is_unchanged(
    attention: Attention, tracer: str
) -> None:
    call = calling(attention)
    expected = {length: call(*tensors(length)) for length in (LENGTH, OTHER)}
    tensor_cache.clear()
    program = TRACERS[tracer](call, tensors(LENGTH))
    assert {type(x) for x in tensor_cache.held_tensors()} <= {Tensor}
    other = tensors(LENGTH, seed=1)
    for _ in range(2):  # a program with new draws would be right once
        assert torch.equal(program(*other), call(*other))
    if "any length" in tracer or tracer in ("jit.trace", "functionalize"):
        assert torch.equal(program(*tensors(OTHER)), expected[OTHER])
    for length in (LENGTH, OTHER):
        assert torch.equal(call(*tensors(length)), expected[length])


def pretended(call: Call) -> Tensor:
    with FakeTensorMode():
        return call(*(torch.empty(x.shape) for x in tensors(LENGTH)))


def of_fake_tensors(call: Call) -> Tensor:
    """Run outside of the mode that made the tensors."""
    mode = FakeTensorMode()
    return call(*(mode.from_tensor(x) for x in tensors(LENGTH)))


def on_meta(call: Call) -> Tensor:
    return call(*tensors(LENGTH, device="meta"))


@pytest.mark.parametrize("pretend", [pretended, of_fake_tensors, on_meta])
@pytest.mark.parametrize("attention", attentions("small"))
def test_fake_tensors_have_the_right_shape_and_dtype(
    attention: Attention, pretend: Callable[[Call], Tensor]
) -> None:
    call = calling(attention)
    expected = call(*tensors(LENGTH))
    found = pretend(call)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(call(*tensors(LENGTH)), expected)
    assert {type(x) for x in tensor_cache.held_tensors()} <= {Tensor}
    assert not any(x.is_meta for x in tensor_cache.held_tensors())


FRESH = """
import torch, variants
from tests.test_traced import LENGTH, OTHER, calling, tensors
from tests.contract.attentions import small_settings
found = dict()
for name in sorted(variants.REGISTRY):
    call = calling(variants.create(name, **small_settings(name)))
    found[name] = [call(*tensors(length)) for length in (LENGTH, OTHER, LENGTH)]
torch.save(found, {path!r})
"""


def test_results_after_tracing_equal_those_of_a_fresh_process(tmp_path: Any) -> None:
    """After all kinds of tracing, at the same length and at another length."""
    path = str(tmp_path / "fresh.pt")
    subprocess.run([sys.executable, "-c", FRESH.format(path=path)], check=True)
    fresh = torch.load(path)
    for name in sorted(REGISTRY):
        call = calling(variants.create(name, **small_settings(name)))
        tensor_cache.clear()
        call(*tensors(LENGTH // 2))
        for act in (pretended, on_meta):
            act(call)
        for tracer in ("export", "make_fx", "make_fx with fake tensors", "functionalize"):
            TRACERS[tracer](call, tensors(OTHER))
        for length, expected in zip((LENGTH, OTHER, LENGTH), fresh[name], strict=True):
            assert torch.equal(call(*tensors(length)), expected), name


class Layer(nn.Module):
    def __init__(self, attention: Attention, position: str) -> None:
        super().__init__()
        self.layer = MultiHeadAttention(32, 4, 2, attention=attention, position=position)
        self.causal = attention.info.causal_choices[-1]

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return self.layer(hidden, causal=self.causal, key_padding_mask=mask)


@pytest.mark.parametrize(("position", "strict"), [("rotary", False), ("sinusoidal", True)])
@pytest.mark.parametrize(
    "attention", attentions("small", where=lambda x: not getattr(x, "shared_qk", False))
)
def test_an_exported_layer_gives_the_results_of_the_layer(
    attention: Attention, position: str, strict: bool
) -> None:
    """With padding at other positions than during the export, and after training of the layer."""
    layer = Layer(attention, position)
    hidden = torch.randn(2, LENGTH, 32)
    mask = torch.zeros(2, LENGTH, dtype=torch.bool)
    mask[1, 30:] = True
    program = torch.export.export(layer, (hidden, mask), strict=strict).module()
    mask = torch.zeros_like(mask)
    mask[0, :7] = True
    hidden = torch.randn(2, LENGTH, 32)
    out, expected = program(hidden, mask), layer(hidden, mask)
    torch.testing.assert_close(out, expected)
    names = [name for name, _ in layer.named_parameters()]
    grads = torch.autograd.grad(expected.square().sum(), layer.parameters())
    owned = dict(program.named_parameters())
    found = torch.autograd.grad(out.square().sum(), [owned[name] for name in names])
    torch.testing.assert_close(found, grads, rtol=1e-4, atol=1e-4)


def test_torchs_own_attention_is_part_of_a_program() -> None:
    attention = variants.create("full", implementation="sdpa")
    program = torch.export.export(Module(calling(attention)), tuple(tensors(LENGTH)))
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("scaled_dot_product_attention" in target for target in targets)
    assert not any("variants" in target for target in targets)


def test_calls_that_cannot_be_traced_are_refused_with_a_message() -> None:
    attention = variants.create("sliding_window")
    query, key, value = tensors(LENGTH)
    with pytest.raises(UnsupportedError, match="sliding_window: weights takes tensors that hold"):
        torch.export.export(Module(lambda q, k, v: attention.weights(q, k)), (query, key, value))
    with pytest.raises(UnsupportedError, match="sliding_window: prefill takes tensors that hold"):
        attention.prefill(*tensors(LENGTH, device="meta"))
    _, state = attention.prefill(*tensors(LENGTH))
    with pytest.raises(UnsupportedError, match="sliding_window: step takes tensors that hold"):
        make_fx(lambda q, k, v: attention.step(state, q, k, v)[0])(query, key, value)
    with FakeTensorMode(), pytest.raises(UnsupportedError, match="outside of a traced program"):
        attention.prefill(*(torch.empty(x.shape) for x in (query, key, value)))


@pytest.mark.parametrize("attention", attentions("small"))
def test_a_dimension_hidden_by_vmap_is_refused_with_a_message(attention: Attention) -> None:
    call = calling(attention)
    query, key, value = tensors(LENGTH)
    refused = pytest.raises(UnsupportedError, match="Join that dimension with the batch")
    with refused:
        torch.vmap(call)(*(torch.stack([x, x]) for x in (query, key, value)))
    with refused:
        torch.func.jacrev(lambda x: call(x, key, value))(query)


def test_an_invalid_call_is_refused_during_tracing() -> None:
    attention = variants.create("linformer")
    with pytest.raises(UnsupportedError, match="linformer does not support 'causal'"):
        exported(lambda q, k, v: attention(q, k, v, causal=True), tensors(LENGTH))
