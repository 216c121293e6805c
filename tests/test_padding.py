"""A padded sequence gives the result of the sequence without padding: in a call, in a layer, in
decoding; with padding on any side.

`tests/contract` tests that a kernel and its definition agree under padding. `test_pretrained` tests
models of transformers with padding.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

import variants
from tests.contract.attentions import attentions, supports
from variants import Attention, MultiHeadAttention, UnsupportedError
from variants.contract import padding
from variants.contract.info import POSITIONS
from variants.layer.encodings import Learned

LENGTH, HEADS, KV_HEADS, HEAD_DIM = 27, 4, 2, 8
# So many tokens of padding that the number of buckets changes.
SIDES = {"left": (40, 0), "right": (0, 40), "both": (17, 23), "none": (0, 0)}
padded = pytest.mark.parametrize("sides", SIDES)
every = pytest.mark.parametrize(
    "attention", attentions("small", where=supports("key_padding_mask"))
)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def tokens(heads: int, length: int, seed: int) -> Tensor:
    return drawn(1, heads, length, HEAD_DIM, seed=seed)


def around(own: Tensor, before: int, behind: int, dim: int = 2) -> Tensor:
    """A batch: the tensor between padding of NaN, then another sequence without padding."""
    shapes = [list(own.shape) for _ in range(2)]
    shapes[0][dim], shapes[1][dim] = before, behind
    first, last = (own.new_full(shape, torch.nan) for shape in shapes)
    together = torch.cat([first, own, last], dim)
    return torch.cat([together, drawn(*together.shape, seed=9, dtype=own.dtype)])


def mask_around(own: Tensor | None, length: int, before: int, behind: int) -> Tensor:
    inner = torch.zeros(length, dtype=torch.bool) if own is None else own[0]
    ends = torch.ones(before, dtype=torch.bool), torch.ones(behind, dtype=torch.bool)
    mask = torch.cat([ends[0], inner, ends[1]])
    return torch.stack([mask, torch.zeros_like(mask)])


def with_holes() -> Tensor:
    mask = torch.zeros(1, LENGTH, dtype=torch.bool)
    mask[:, 11:13] = True
    return mask


@padded
@pytest.mark.parametrize("holes", [False, True], ids=["", "holes"])
@every
def test_a_padded_row_equals_the_row_of_the_sequence_alone(
    attention: Attention, sides: str, holes: bool
) -> None:
    """Output, weights and gradients. Padding is NaN, so any read of it is detected."""
    before, behind = SIDES[sides]
    own = slice(before, before + LENGTH)
    inner = with_holes() if holes else None
    query, key, value = (
        tokens(h, LENGTH, h + i) for i, h in enumerate((HEADS, KV_HEADS, KV_HEADS))
    )
    grad = drawn(*query.shape, seed=5)
    mask = mask_around(inner, LENGTH, before, behind)
    for causal in attention.info.causal_choices:
        alone = [x.clone().requires_grad_() for x in (query, key, value)]
        expected = attention(*alone, causal=causal, key_padding_mask=inner)
        grads = torch.autograd.grad(expected, alone, grad)
        batch = [around(x, before, behind) for x in (query, key, value)]
        # Some methods compute queries at padding, so these queries must not be NaN.
        batch[0] = batch[0].nan_to_num(0.5)
        batch = [x.requires_grad_() for x in batch]
        out = attention(*batch, causal=causal, key_padding_mask=mask)
        assert bool(out.isfinite().all())
        assert_close(out[:1, :, own], expected)
        weights = attention.weights(*batch[:2], causal=causal, key_padding_mask=mask)
        own_weights = attention.weights(*alone[:2], causal=causal, key_padding_mask=inner)
        assert_close(weights[:1, :, own, own], own_weights)
        assert not weights[:1].masked_fill(~mask[:1, None, None], 0).any()
        whole = torch.zeros_like(out)
        whole[:1, :, own] = grad
        found = torch.autograd.grad(out, batch, whole)
        for one, other in zip(found, grads, strict=True):
            assert_close(one[:1, :, own], other)
            assert not one[:1, :, :before].any()
            assert not one[:1, :, before + LENGTH :].any()


@padded
@pytest.mark.parametrize("queries", [1, 10, 40])
@pytest.mark.parametrize(
    "attention",
    attentions("small", where=supports("key_padding_mask", "cross_attention")),
)
def test_queries_of_another_sequence_with_padded_keys(
    attention: Attention, queries: int, sides: str
) -> None:
    """As many queries as keys, or fewer. No query is padding, and the last query has the position
    of the last key."""
    before, behind = SIDES[sides]
    if False not in attention.info.causal_choices:
        return
    query, key, value = (
        tokens(h, n, i)
        for i, (h, n) in enumerate(((HEADS, queries), (KV_HEADS, LENGTH), (KV_HEADS, LENGTH)))
    )
    expected = attention(query, key, value)
    both = torch.cat([query, drawn(*query.shape, seed=7)])
    mask = mask_around(None, LENGTH, before, behind)
    call = {"key_padding_mask": mask}
    out = attention(both, around(key, before, behind), around(value, before, behind), **call)
    assert_close(out[:1], expected)
    rows = torch.tensor([queries - 1, 0])
    keys = around(key, before, behind)
    weights = attention.weights(both, keys, rows=rows, **call)[:1, :, :, before : before + LENGTH]
    assert_close(weights, attention.weights(query, key, rows=rows))


@padded
@pytest.mark.parametrize(
    "attention",
    attentions("small", where=supports("key_padding_mask", "cross_attention", "causal")),
)
def test_fewer_causal_queries_than_padded_keys(attention: Attention, sides: str) -> None:
    """The queries have the last positions, including padding."""
    before, behind = SIDES[sides]
    query, key, value = (tokens(h, LENGTH, i) for i, h in enumerate((HEADS, KV_HEADS, KV_HEADS)))
    mask = mask_around(None, LENGTH, before, behind)
    for few in (1, 5):
        expected = attention(query[:, :, -few:], key, value, causal=True)
        last = around(query, before, behind)[:, :, -few - behind :].nan_to_num(0.5)
        keys, values = (around(x, before, behind) for x in (key, value))
        out = attention(last, keys, values, causal=True, key_padding_mask=mask)
        assert_close(out[:1, :, :few], expected)


def test_rows_of_padding_do_not_see_other_rows_of_padding() -> None:
    """If queries at padding may belong to another sequence, they see only the keys that are not
    padding."""
    attention = variants.create("nystrom", num_landmarks=4)
    query, key, value = (drawn(1, 2, 20, 8, seed=i) for i in range(3))
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[:, 12:] = True
    out = attention(query, key, value, key_padding_mask=mask)
    expected = attention(query[:, :, 12:], key[:, :, :12], value[:, :, :12])
    assert_close(out[:, :, 12:], expected)


@pytest.mark.parametrize("sides", ["left", "both"])
@pytest.mark.parametrize("cut", [1, 5, 12, 20])
@pytest.mark.parametrize(
    "attention", attentions("small", where=supports("key_padding_mask", "step"))
)
def test_steps_give_the_causal_call(attention: Attention, cut: int, sides: str) -> None:
    """Also if a sequence begins after the prefill, and if one has ended."""
    before, behind = SIDES[sides]
    batch = [
        around(tokens(h, LENGTH, h + i), before, behind).nan_to_num(0.5)
        for i, h in enumerate((HEADS, KV_HEADS, KV_HEADS))
    ]
    mask = mask_around(with_holes(), LENGTH, before, behind)
    total = mask.shape[1]
    biases: list[Tensor | None] = [None]
    if "distance_bias" in attention.supports:
        biases.append(drawn(HEADS, 2 * total - 1, seed=4))
    for bias, few in itertools.product(biases, (1, 4)):
        expected = attention(*batch, causal=True, key_padding_mask=mask, distance_bias=bias)
        outs, state = [], None
        for start, stop in itertools.pairwise([0, *range(cut, total, few), total]):
            part = slice(start, stop)
            own: dict[str, Any] = {"key_padding_mask": mask[:, part]}
            if bias is not None:
                own["distance_bias"] = bias[:, total - stop : total + stop - 1][
                    :, : stop - start + stop - 1
                ]
            new = [x[:, :, part] for x in batch]
            with torch.no_grad():
                if state is None:
                    out, state = attention.prefill(*new, **own)
                else:
                    out, state = attention.step(state, *new, **own)
            outs.append(out)
        shown = ~mask[:, None, :, None]
        assert_close(torch.cat(outs, dim=2) * shown, expected * shown)


def layers() -> list[Any]:
    """One attention with every position encoding, as a layer adds them; other attentions with one
    encoding."""
    found = []
    for case in attentions("small", where=supports("key_padding_mask")):
        (attention,) = case.values
        if not getattr(attention, "shared_qk", False):
            sinks = attention.info.name == "attention_sinks"
            names = [None, "sinusoidal", "learned", "rotary", "alibi"] if sinks else ["rotary"]
            found += [pytest.param(attention, name, id=f"{case.id}-{name}") for name in names]
    return found


@padded
@pytest.mark.parametrize(("attention", "position"), layers())
def test_a_padded_row_of_a_layer_equals_the_row_of_the_sequence_alone(
    attention: Attention, position: str | None, sides: str
) -> None:
    """The call, prefill and steps. Positions count from the first token."""
    before, behind = SIDES[sides]
    torch.manual_seed(0)
    made = Learned(32, max_len=LENGTH) if position == "learned" and not behind else position
    made = Learned(32, max_len=LENGTH + behind) if position == "learned" else made
    layer = MultiHeadAttention(32, HEADS, KV_HEADS, attention=attention, position=made).double()
    hidden = drawn(1, LENGTH, 32)
    batch = around(hidden, before, behind, dim=1).nan_to_num(0.5)
    mask = mask_around(None, LENGTH, before, behind)
    own = slice(before, before + LENGTH)
    if position == "learned":
        batch = torch.cat([batch[:1], batch[:1]])  # longer than the learned positions
        mask = torch.cat([mask[:1], mask[:1]])
    for causal in attention.info.causal_choices:
        expected = layer(hidden, causal=causal)
        assert_close(layer(batch, causal=causal, key_padding_mask=mask)[:1, own], expected)
    if "step" in attention.supports:
        with torch.no_grad():
            expected = layer(hidden, causal=True)
            cut = before + 4
            out, state = layer.prefill(batch[:, :cut], key_padding_mask=mask[:, :cut])
            outs = [out]
            for start in range(cut, mask.shape[1], 3):
                part = slice(start, start + 3)
                out, state = layer.step(state, batch[:, part], key_padding_mask=mask[:, part])
                outs.append(out)
        assert_close(torch.cat(outs, dim=1)[:1, own], expected)


def test_position_encodings_with_cross_attention_refuse_padding_at_the_end() -> None:
    layer = MultiHeadAttention(32, 4, position="rotary").double()
    query, key = drawn(2, 5, 32), drawn(2, 9, 32)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 7:] = True
    with pytest.raises(UnsupportedError, match=r"position Rotary: .* pad the keys on the left"):
        layer(query, key, key_padding_mask=mask)
    for run in (
        lambda: torch.export.export(layer, (query, key), {"key_padding_mask": mask}),
        lambda: torch.compile(layer, backend="eager")(query, key, key_padding_mask=mask),
        lambda: make_fx(lambda q, k, m: layer(q, k, key_padding_mask=m))(query, key, mask),
    ):
        with pytest.raises(Exception, match=r"position Rotary: with queries of another sequence"):
            run()
    with pytest.raises(UnsupportedError, match="pad the keys on the left"):
        torch.func.grad(lambda q: layer(q, key, key_padding_mask=mask).sum())(query)
    expected = layer(query[:1], key[:1, :7])
    assert_close(layer(query, key.roll(2, 1), key_padding_mask=mask.roll(2, 1))[:1], expected)


def test_learned_positions_count_only_tokens() -> None:
    """Padding at the start uses none of the learned positions of a layer."""
    layer = MultiHeadAttention(32, 4, position=Learned(32, max_len=5)).double()
    hidden = drawn(2, 9, 32)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[:, :4] = True
    assert_close(
        layer(hidden, key_padding_mask=mask)[:, 4:], layer(hidden[:, 4:]), check_stride=False
    )
    grad = torch.func.grad(lambda x: layer(x, key_padding_mask=mask)[:, 4:].sum())(hidden)
    assert not grad[:, :4].any()
    with torch.no_grad():
        compiled = torch.compile(layer, backend="eager")(hidden, key_padding_mask=mask)
    assert_close(compiled, layer(hidden, key_padding_mask=mask))
    mask[1, 3] = False
    with pytest.raises(ValueError, match="reach from 0 to 4; got positions 0 to 5"):
        layer(hidden, key_padding_mask=mask)


def test_a_method_without_a_declaration_is_computed_sequence_by_sequence() -> None:
    assert POSITIONS == ("none", "distance", "absolute")
    assert variants.contract.info.Info.__dataclass_fields__["positions"].default == "absolute"


def test_a_layer_with_a_mask_in_traced_programs() -> None:
    layer = MultiHeadAttention(32, 4, attention="attention_sinks", position="rotary").double()
    hidden = drawn(2, 9, 32)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, :4] = True
    program = make_fx(lambda x, m: layer(x, causal=True, key_padding_mask=m))(hidden, mask)
    other = mask.flip(0)
    expected = layer(hidden, causal=True, key_padding_mask=other)
    assert_close(program(hidden, other), expected)
    found = layer.to("meta")(hidden.to("meta"), causal=True, key_padding_mask=mask.to("meta"))
    assert (found.shape, found.is_meta) == (expected.shape, True)


def test_invalid_masks_are_reported_first() -> None:
    layer = MultiHeadAttention(32, 4, position="rotary").double()
    query, key = drawn(2, 5, 32), drawn(2, 9, 32)
    with pytest.raises(ValueError, match="pass `mask == 0`"):
        layer(query, key, key_padding_mask=torch.ones(2, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must be a bool tensor .* got list"):
        layer(query, key, key_padding_mask=[[True] * 9] * 2)
    with pytest.raises(ValueError, match=r"bool of shape \(2, 9\)"):
        layer(query, key, key_padding_mask=torch.zeros(9, dtype=torch.bool))
    with pytest.raises(ValueError, match="query, key and value must be tensors"):
        variants.create("full").prefill(query[None], None, None)


def test_spans_gives_the_first_and_last_token_and_whether_there_are_gaps() -> None:
    rows = ["0000", "1100", "0011", "1001", "0100", "1111"]
    mask = torch.tensor([[digit == "1" for digit in row] for row in rows])
    assert padding.spans(mask) == [
        (0, 4, False),
        (2, 4, False),
        (0, 2, False),
        (1, 3, False),
        (0, 4, True),
        (0, 0, False),
    ]
