"""Errors for unsupported capabilities and for invalid arguments."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contract.answers import for_each_head, own_answer
from tests.contract.attentions import (
    attentions,
)
from tests.contract.own_value import OwnValue, describe
from tests.contract.shapes import (
    ODD,
    Shape,
)
from variants import REGISTRY, Attention, UnsupportedError
from variants.contract.attention import Parameters

CAPABILITIES = ["causal", "key_padding_mask", "cross_attention", "distance_bias", "backward"]
# Members of `Attention` that a variant may override. All others check arguments and delegate.
HOOKS = {
    "attend",
    "dense_weights",
    "remember",
    "advance",
    "build",
    "init_parameters",
    "default_scale",
    "unavailable",
    "choose_implementation",
    "triton_takes",
    "traceable",
    "useful_pairs",
    "useful_flops",
    "target",
    "convex",
    "prefix_stable",
}


@pytest.mark.parametrize("entry", ["call", "weights"])
@pytest.mark.parametrize("word", CAPABILITIES[:4])
def test_an_unsupported_capability_raises_and_names_the_variant_and_the_capability(
    word: str, entry: str
) -> None:
    query, key, value = ODD.tensors()
    arguments: dict[str, Any] = {
        "causal": {"causal": True},
        "key_padding_mask": {"key_padding_mask": ODD.padding()},
        "cross_attention": {},
        "distance_bias": {"distance_bias": ODD.distance_bias()},
    }[word]
    if word == "cross_attention":
        query = query[:, :, 1:]
    attention = OwnValue()
    inputs = (query, key, value) if entry == "call" else (query, key)
    function = attention if entry == "call" else attention.weights
    with pytest.raises(UnsupportedError, match=f"own_value does not support '{word}'"):
        function(*inputs, **arguments)


def test_a_causal_only_variant_refuses_a_non_causal_call() -> None:
    @dataclass(frozen=True)
    class Last(OwnValue):
        info = dataclasses.replace(describe("last", "n", {"causal"}), causal_only=True)

    query, key, value = ODD.tensors()
    for function in (Last(), lambda *x, **call: Last().weights(*x[:2], **call)):
        with pytest.raises(UnsupportedError, match=r"last is causal only: .* got causal=False"):
            function(query, key, value)
        assert function(query, key, value, causal=True).shape[2] == ODD.query_len


@pytest.mark.parametrize("which", [0, 1, 2], ids=["query", "key", "value"])
def test_a_gradient_is_refused_where_backward_is_not_supported(which: int) -> None:
    inputs = ODD.tensors()
    inputs[which].requires_grad_()
    with pytest.raises(UnsupportedError, match="own_value does not support 'backward'"):
        OwnValue()(*inputs)
    with torch.no_grad():
        assert_close(OwnValue()(*inputs), for_each_head(inputs[2], ODD.heads))


def test_a_call_without_optional_arguments_needs_no_capability() -> None:
    query, key, value = ODD.tensors()
    assert_close(OwnValue()(query, key, value), own_answer(OwnValue(), query, key, value))


def wrong_calls() -> list[Any]:
    """Invalid arguments, and the expected and received values that the message must contain."""
    query, key, value = Shape(2, 4, 2, 6, 6).tensors(torch.float32)
    wrong: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
        "rank": (
            (query[0], key, value),
            {},
            r"must be \(batch, heads, seq_len, head_dim\); got query \(4, 6, 8\)",
        ),
        "key and value": (
            (query, key, value[:, :, :5]),
            {},
            r"same shape; got .*key \(2, 2, 6, 8\), value \(2, 2, 5, 8\)",
        ),
        "batch": (
            (query[:1], key, value),
            {},
            r"agree in batch and head_dim; got query \(1, 4, 6, 8\), key \(2, 2, 6, 8\)",
        ),
        "head_dim": (
            (query[..., :4], key, value),
            {},
            r"agree in batch and head_dim; got query \(2, 4, 6, 4\), key \(2, 2, 6, 8\)",
        ),
        "empty": (
            (query[:, :, :0], key[:, :, :0], value[:, :, :0]),
            {},
            r"at least 1; got query \(2, 4, 0, 8\)",
        ),
        "heads": ((query[:, :3], key, value), {}, "must divide .*; got heads=3, kv_heads=2"),
        "fewer heads": ((query[:, :1], key, value), {}, "must divide .*; got heads=1, kv_heads=2"),
        "mixed dtypes": (
            (query, key.double(), value),
            {},
            "share one dtype of float16, bfloat16, float32, float64; "
            "got torch.float32, torch.float64, torch.float32",
        ),
        "integers": (
            tuple(x.long() for x in (query, key, value)),
            {},
            "share one dtype of float16, bfloat16, float32, float64; got torch.int64",
        ),
        "devices": (
            (query, key.to("meta"), value.to("meta")),
            {},
            "on one device; got cpu, meta, meta",
        ),
        "mask shape": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 5, dtype=torch.bool)},
            r"bool of shape \(2, 6\), True = padding; got torch.bool of shape \(2, 5\)",
        ),
        "mask rank": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 1, 6, dtype=torch.bool)},
            r"bool of shape \(2, 6\), True = padding; got torch.bool of shape \(2, 1, 6\)",
        ),
        "mask is a list": (
            (query, key, value),
            {"key_padding_mask": [[True]]},
            "key_padding_mask must be a tensor; got list",
        ),
        "causal is a word": (
            (query, key, value),
            {"causal": "no"},
            "causal must be True or False; got 'no'",
        ),
        "scale is a word": (
            (query, key, value),
            {"scale": "x"},
            "scale must be a number or None; got 'x'",
        ),
        "mask dtype": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 6)},
            r"bool of shape \(2, 6\), True = padding; got torch.float32 of shape \(2, 6\)",
        ),
        "mask device": (
            (query, key, value),
            {"key_padding_mask": torch.zeros(2, 6, dtype=torch.bool, device="meta")},
            "key_padding_mask must be on cpu; got meta",
        ),
        "bias of kv heads": (
            (query, key, value),
            {"distance_bias": torch.zeros(2, 11)},
            r"distance_bias must be .* = \(4, 11\) and on cpu; got .* of shape \(2, 11\)",
        ),
        "bias of distances back alone": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 6)},
            r"query_len \+ key_len - 1\) = \(4, 11\) .*; got torch.float32 of shape \(4, 6\)",
        ),
        "bias as a mask": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 6, 6)},
            r"= \(4, 11\) .*; got torch.float32 of shape \(4, 6, 6\)",
        ),
        "bias of integers": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 11, dtype=torch.int64)},
            r"distance_bias must be of floating point, .*; got torch.int64 of shape \(4, 11\)",
        ),
        "bias elsewhere": (
            (query, key, value),
            {"distance_bias": torch.zeros(4, 11, device="meta")},
            r"and on cpu; got torch.float32 of shape \(4, 11\) on meta",
        ),
    }
    return [pytest.param(*case, id=label) for label, case in wrong.items()]


@dataclass(frozen=True)
class Capable(OwnValue):
    """Declares every capability, so that the only errors are those of invalid arguments."""

    info = describe("capable", "n", set(CAPABILITIES))


@pytest.mark.parametrize(("inputs", "arguments", "message"), wrong_calls())
def test_invalid_arguments_raise_and_the_message_names_the_expected_values(
    inputs: tuple[Tensor, ...], arguments: dict[str, Any], message: str
) -> None:
    """Tested on one variant; `test_a_variant_overrides_only_hooks` covers the others."""
    with pytest.raises(ValueError, match=f"^capable: .*{message}"):
        Capable()(*inputs, **arguments)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_variant_overrides_only_hooks(name: str) -> None:
    """The public methods and their checks are those of `Attention`, which are tested there."""
    ancestors = itertools.takewhile(lambda kind: kind is not Attention, REGISTRY[name].__mro__)
    own = {word for kind in ancestors for word in vars(kind)}
    own = {word for word in own if word == "__call__" or not word.startswith("__")}
    assert own & vars(Attention).keys() - {"info", "_abc_impl"} <= HOOKS


@pytest.mark.parametrize(
    "attention",
    [OwnValue(), *attentions("small", where=lambda own: bool(own.init_parameters(1, 4)))],
)
def test_invalid_parameters_raise_and_the_message_names_the_expected_ones(
    attention: Attention,
) -> None:
    query, key, value = ODD.tensors()
    right = attention.init_parameters(ODD.heads, ODD.head_dim)
    wanted = ", ".join(f"{name} {tuple(x.shape)}" for name, x in sorted(right.items())) or "none"
    wrong: list[tuple[Any, str]] = [([1.0], "list")]
    changed = [{**right, "unknown": torch.zeros(3)}]
    for name, tensor in right.items():
        changed.append({other: right[other] for other in right if other != name})
        changed.append({**right, name: tensor[None]})
        wrong.append(({**right, name: tensor.tolist()}, f"{name} of type list"))
        wrong.append(({**right, name: tensor.long()}, f"{name} of torch.int64"))
        wrong.append(({**right, name: tensor.to("meta")}, f"{name} on meta"))
    for given in changed:
        got = ", ".join(f"{name} {tuple(x.shape)}" for name, x in sorted(given.items()))
        wrong.append((given, got or "none"))
    for given, got in wrong:
        message = (
            f"{attention.info.name}: parameters must be {wanted}, of floating point and on cpu; "
            f"got {got}"
        )
        for function in (attention, lambda *x, **call: attention.weights(*x[:2], **call)):
            call = {"causal": attention.info.causal_choices[0], "parameters": given}
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                function(query, key, value, **call)


def test_weights_are_checked_like_a_call() -> None:
    query, key, _ = ODD.tensors()
    attention: Attention = OwnValue()
    with pytest.raises(ValueError, match=r"own_value: .*agree in batch and head_dim; got query"):
        attention.weights(query[:1], key)
    parameters: Parameters = {}
    assert_close(
        attention.weights(query, key, rows=torch.tensor([2]), parameters=parameters)[0, 0, 0],
        torch.eye(ODD.key_len, dtype=torch.float64)[2],
    )
