"""The method with the signature of torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

import variants
from variants import UnsupportedError
from variants.contract import pair_masks

BATCH, HEADS, LENGTH, HEAD_DIM = 2, 4, 7, 8
FULL = variants.create("full")
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
RIGHT = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7]).bool()  # True = token
LEFT = RIGHT.flip(1)


def inputs(query_len: int = LENGTH, key_len: int = LENGTH, kv_heads: int = HEADS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, query_len), (kv_heads, key_len), (kv_heads, key_len)]
    return [torch.randn(BATCH, *shape, HEAD_DIM, generator=generator) for shape in shapes]


def both(*tensors: Tensor, **call: Any) -> tuple[Tensor, Tensor]:
    """The results of exact attention and of torch's function."""
    return (
        FULL.scaled_dot_product_attention(*tensors, **call),
        functional.scaled_dot_product_attention(*tensors, **call),
    )


def added(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)


def test_the_arguments_are_those_of_torch() -> None:
    schema = torch.ops.aten.scaled_dot_product_attention.default._schema
    wanted = [
        (it.name, it.default_value if it.has_default_value() else None, it.kwarg_only)
        for it in schema.arguments
    ]
    own = inspect.signature(variants.Attention.scaled_dot_product_attention).parameters
    found = [
        (
            it.name,
            None if it.default is it.empty else it.default,
            it.kind is inspect.Parameter.KEYWORD_ONLY,
        )
        for it in list(own.values())[1:]
    ]
    assert found == wanted


def test_the_method_can_replace_torchs_function(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.TransformerEncoderLayer(32, HEADS, dim_feedforward=8, dropout=0.0)
    tokens = torch.randn(LENGTH, BATCH, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = layer(tokens)
    asked = variants.parse("sliding_window window_size=1")
    for attention, same in ((FULL, True), (asked, False)):
        with monkeypatch.context() as patch:
            patch.setattr(
                functional, "scaled_dot_product_attention", attention.scaled_dot_product_attention
            )
            out = layer(tokens)
        assert torch.allclose(out, wanted, atol=1e-5) == same


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"dropout_p": 0.0, "enable_gqa": False, "attn_mask": None},
        {"attn_mask": torch.ones(LENGTH, LENGTH, dtype=torch.bool)},
        {"attn_mask": torch.zeros(1, 1)},
        {"attn_mask": CAUSAL},
        {"attn_mask": added(CAUSAL)},
        {"attn_mask": CAUSAL.expand(BATCH, HEADS, -1, -1)},
        {"attn_mask": added(CAUSAL).clamp(min=torch.finfo(torch.float32).min)},
        {"attn_mask": RIGHT[:, None, None]},
        {"attn_mask": added(RIGHT[:, None, None])},
        {"attn_mask": RIGHT[:, None, None].expand(-1, HEADS, LENGTH, -1)},
        {"attn_mask": RIGHT[:1, None, None]},
        {"attn_mask": RIGHT[:1]},
    ],
    ids=lambda call: ",".join(
        f"{k}={tuple(v.shape) if isinstance(v, Tensor) else v}" for k, v in call.items()
    ),
)
@pytest.mark.parametrize("kv_heads", [HEADS, 1])
def test_exact_attention_gives_the_result_of_torch(call: dict[str, Any], kv_heads: int) -> None:
    found, wanted = both(*inputs(kv_heads=kv_heads), **call)
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("tokens", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("additive", [False, True])
def test_a_causal_mask_of_padded_sequences_is_recognised(
    tokens: Tensor, additive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_masks, "TILE", 2 * LENGTH)
    mask = CAUSAL & tokens[:, None, None]
    found, wanted = both(*inputs(), attn_mask=added(mask) if additive else mask)
    rows = tokens[:, None].expand(-1, HEADS, -1)
    assert torch.allclose(found[rows], wanted[rows], atol=1e-6)


def test_fewer_queries_than_keys_are_aligned_by_the_mask() -> None:
    query, key, value = inputs(query_len=3)
    # In torch the first query has the position of the first key.
    found, wanted = both(query, key, value, is_causal=True)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert not torch.allclose(FULL(query, key, value, causal=True), wanted, atol=1e-2)
    # With a mask the last query has the position of the last key, as with a cache.
    mask = CAUSAL[-3:]
    found, wanted = both(query, key, value, attn_mask=mask)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.equal(found, FULL(query, key, value, causal=True))


def test_fewer_key_heads_than_query_heads_need_enable_gqa() -> None:
    found, wanted = both(*inputs(kv_heads=2), enable_gqa=True, is_causal=True)
    assert torch.allclose(found, wanted, atol=1e-6)
    with pytest.raises(ValueError, match=r"or enable_gqa=True; got heads=4, kv_heads=2"):
        FULL.scaled_dot_product_attention(*inputs(kv_heads=2))


def test_gradients_equal_those_of_torch() -> None:
    results = []
    for function in (FULL.scaled_dot_product_attention, functional.scaled_dot_product_attention):
        leaves = [x.requires_grad_() for x in inputs()]
        out = function(*leaves, attn_mask=CAUSAL & RIGHT[:, None, None])
        results.append(torch.autograd.grad(out.square().sum(), leaves))
    for found, wanted in zip(*results, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", sorted(variants.REGISTRY))
def test_every_variant_reads_masks_like_its_call(name: str) -> None:
    attention = variants.create(name)
    tensors = inputs()
    for causal in attention.info.causal_choices:
        mask = CAUSAL if causal else torch.ones(LENGTH, LENGTH, dtype=torch.bool)
        wanted = attention(*tensors, causal=causal)
        assert torch.equal(attention.scaled_dot_product_attention(*tensors, mask), wanted)
        if "key_padding_mask" in attention.supports:
            wanted = attention(*tensors, causal=causal, key_padding_mask=~RIGHT)
            mask = mask & RIGHT[:, None, None]
            assert torch.equal(attention.scaled_dot_product_attention(*tensors, mask), wanted)
    if {"cross_attention", "causal"} <= attention.supports:
        tensors = inputs(query_len=1)
        one = torch.ones(1, LENGTH, dtype=torch.bool)
        causal = attention.info.causal_only
        wanted = attention(*tensors, causal=causal)
        assert torch.equal(attention.scaled_dot_product_attention(*tensors, one), wanted)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (UnsupportedError, {"dropout_p": 0.1}, "dropout_p must be 0.0, as .*; got 0.1"),
        (ValueError, {"attn_mask": CAUSAL, "is_causal": True}, "attn_mask or is_causal=True, not"),
        (ValueError, {"attn_mask": CAUSAL.int()}, "attn_mask must be bool.*got torch.int32"),
        (ValueError, {"attn_mask": CAUSAL[:3]}, r"= \(2, 4, 7, 7\); got .* of shape \(3, 7\)"),
        (ValueError, {"attn_mask": CAUSAL[0]}, r"= \(2, 4, 7, 7\); got .* of shape \(7,\)"),
        (ValueError, {"attn_mask": CAUSAL[None, None, None]}, r"got .* of shape \(1, 1, 1, 7, 7\)"),
        (
            UnsupportedError,
            {"attn_mask": -torch.arange(49.0).view(7, 7)},
            "adds other numbers. attn_mask may .*distance_bias",
        ),
        (UnsupportedError, {"attn_mask": CAUSAL.triu(-2)}, "in a pattern .*may hide padded"),
        (UnsupportedError, {"attn_mask": CAUSAL.T}, "in a pattern .*may hide padded"),
        (UnsupportedError, {"attn_mask": CAUSAL & RIGHT[:, None, :, None]}, "keys in a pattern"),
    ],
)
def test_unsupported_arguments_are_refused(
    error: type[Exception], call: dict[str, Any], message: str
) -> None:
    with pytest.raises(error, match=re.compile(f"full: .*{message}")) as raised:
        FULL.scaled_dot_product_attention(*inputs(), **call)
    assert raised.type is error


def test_more_queries_than_keys_are_not_causal() -> None:
    query, key, value = inputs(key_len=3)
    found, wanted = both(query, key, value)
    assert torch.allclose(found, wanted, atol=1e-6)
    with pytest.raises(UnsupportedError, match="got query_len=7, key_len=3"):
        FULL.scaled_dot_product_attention(query, key, value, is_causal=True)


def test_other_numbers_of_dimensions_are_refused_like_in_the_call() -> None:
    with pytest.raises(ValueError, match=r"must be \(batch, heads, seq_len, head_dim\)"):
        FULL.scaled_dot_product_attention(*(x[0] for x in inputs()), is_causal=True)


def test_a_traced_program_accepts_a_mask_of_keys_and_refuses_a_mask_of_pairs() -> None:
    attention = variants.create("sliding_window", window_size=2)

    def call(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return attention.scaled_dot_product_attention(query, key, value, mask)

    tensors, mask = inputs(), RIGHT[:, None, None]
    program = make_fx(call, tracing_mode="fake")(*tensors, mask)
    other = LEFT[:, None, None]
    assert torch.equal(program(*tensors, other), call(*tensors, other))
    with pytest.raises(UnsupportedError, match="cannot read the numbers in attn_mask; give is"):
        make_fx(call, tracing_mode="fake")(*tensors, CAUSAL)
