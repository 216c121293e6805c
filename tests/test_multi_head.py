"""The layer: against torch.nn.MultiheadAttention, with every variant, and token by token."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import variants
from tests.contract.attentions import attentions, supports
from variants import Attention, MultiHeadAttention, UnsupportedError
from variants.layer import TransformerBlock
from variants.layer.encodings import Learned, Position, RelativeBias

BATCH, TOKENS, WIDTH, HEADS = 3, 19, 24, 4


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def tokens(length: int = TOKENS, width: int = WIDTH, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(BATCH, length, width, dtype=dtype)


def padding(length: int = TOKENS) -> Tensor:
    """Padding at the end, padding at the start, and no padding."""
    mask = torch.zeros(BATCH, length, dtype=torch.bool)
    mask[0, -5:] = True
    mask[1, :3] = True
    return mask


def torch_module(**options: Any) -> nn.MultiheadAttention:
    settings: dict[str, Any] = {"batch_first": True, "dtype": torch.float64} | options
    module = nn.MultiheadAttention(WIDTH, HEADS, **settings)
    with torch.no_grad():
        for parameter in module.parameters():
            # Initial biases are zero, which would hide a bias that is not copied.
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module


def later_keys(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


# Comparison with torch.


@pytest.mark.parametrize("masked", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_output_and_gradients_equal_those_of_torch(bias: bool, causal: bool, masked: bool) -> None:
    module = torch_module(bias=bias)
    layer = MultiHeadAttention.from_torch(module)
    mask = padding() if masked else None
    if causal and masked:
        mask[1, :3] = False  # torch returns NaN for a row that sees no key
    ours, theirs = (x := tokens()).requires_grad_(), x.detach().clone().requires_grad_()
    out = layer(ours, causal=causal, key_padding_mask=mask)
    expected, _ = module(
        theirs,
        theirs,
        theirs,
        key_padding_mask=mask,
        attn_mask=later_keys(TOKENS) if causal else None,
        need_weights=False,
    )
    assert_close(out, expected)
    direction = torch.randn_like(out)
    out.backward(direction)
    expected.backward(direction)
    assert_close(ours.grad, theirs.grad)
    weights = [p.weight for p in (layer.query_projection, layer.key_projection)]
    weights.append(layer.value_projection.weight)
    assert_close(torch.cat([w.grad for w in weights]), module.in_proj_weight.grad)
    assert_close(layer.output_projection.weight.grad, module.out_proj.weight.grad)
    if bias:
        assert_close(layer.output_projection.bias.grad, module.out_proj.bias.grad)


@pytest.mark.parametrize("widths", [{}, {"kdim": 10, "vdim": 14}], ids=["one width", "three"])
def test_cross_attention_equals_that_of_torch(widths: dict[str, int]) -> None:
    module = torch_module(**widths)
    layer = MultiHeadAttention.from_torch(module)
    query = tokens(7)
    key, value = tokens(11, widths.get("kdim", WIDTH)), tokens(11, widths.get("vdim", WIDTH))
    expected, _ = module(query, key, value, key_padding_mask=padding(11))
    assert_close(layer(query, key, value, key_padding_mask=padding(11)), expected)


def test_a_missing_value_is_the_key_and_a_missing_key_is_the_query() -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, dtype=torch.float64)
    query, key = tokens(7), tokens(11)
    assert_close(layer(query, key), layer(query, key, key))
    assert_close(layer(query), layer(query, query, query))
    assert not torch.allclose(layer(query, key), layer(query, key, key.flip(1)))


def test_a_new_layer_has_the_initialisation_of_torch() -> None:
    layer = MultiHeadAttention(512, 8)
    bound = (6 / (2 * 512)) ** 0.5
    for projection in (layer.query_projection, layer.key_projection, layer.output_projection):
        assert projection.weight.abs().max() <= bound
        assert float(projection.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
        assert not projection.bias.any()


def test_query_heads_of_a_group_read_one_key_value_head() -> None:
    layer = MultiHeadAttention(WIDTH, 4, 2, dtype=torch.float64)
    full = MultiHeadAttention(WIDTH, 4, dtype=torch.float64)
    state = layer.state_dict()
    for name in ("key_projection", "value_projection"):
        for part in ("weight", "bias"):
            heads = state[f"{name}.{part}"].unflatten(0, (2, 6))
            state[f"{name}.{part}"] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    x = tokens()
    assert_close(layer(x, causal=True), full(x, causal=True))


# `from_torch`.


def test_from_torch_copies_weights_and_keeps_the_settings() -> None:
    module = torch_module(dtype=torch.float32, kdim=10, vdim=14).eval()
    module.k_proj_weight.requires_grad_(False)
    module.out_proj.bias.requires_grad_(False)
    layer = MultiHeadAttention.from_torch(module)
    trained = {name: p.requires_grad for name, p in layer.named_parameters()}
    assert {name for name, wanted in trained.items() if not wanted} == {
        "key_projection.weight",
        "output_projection.bias",
    }
    assert len(trained) == 8
    assert not layer.training
    assert all(p.dtype == torch.float32 and p.is_leaf for p in layer.parameters())
    before = layer.query_projection.weight.clone()
    with torch.no_grad():
        module.q_proj_weight.zero_()
    assert torch.equal(layer.query_projection.weight, before)


def test_from_torch_may_change_the_attention_and_the_position() -> None:
    module = torch_module()
    attention = variants.create("sliding_window", window_size=4)
    layer = MultiHeadAttention.from_torch(module, attention=attention, position="rotary")
    assert layer.attention is attention
    x = tokens()
    assert not torch.allclose(layer(x), module(x, x, x)[0])
    wide = variants.create("sliding_window", window_size=TOKENS)
    assert_close(MultiHeadAttention.from_torch(module, wide)(x), module(x, x, x)[0])


def test_from_torch_on_meta_allocates_no_weights() -> None:
    layer = MultiHeadAttention.from_torch(torch_module(device="meta"))
    assert {p.device.type for p in layer.parameters()} == {"meta"}


def test_from_torch_warns_of_dropout() -> None:
    with pytest.warns(UserWarning, match=r"ignores dropout=0\.25") as seen:
        MultiHeadAttention.from_torch(torch_module(dropout=0.25))
    assert seen[0].filename == __file__


class Doubled(nn.MultiheadAttention):
    def forward(self, *arguments: Any, **options: Any) -> Any:
        out, weights = super().forward(*arguments, **options)
        return 2 * out, weights


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(2, 2), r"needs a torch.nn.MultiheadAttention.*got.*\.Linear"),
        (lambda: Doubled(WIDTH, HEADS), r"does not override forward; got tests.*\.Doubled"),
        (lambda: torch_module(add_bias_kv=True), "cannot represent add_bias_kv=True"),
        (lambda: torch_module(add_zero_attn=True), "cannot represent add_zero_attn=True"),
    ],
)
def test_from_torch_refuses_modules_that_it_cannot_represent(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention.from_torch(make())


# Every variant.


def layer_for(attention: Attention, **options: Any) -> MultiHeadAttention:
    shared = getattr(attention, "shared_qk", False)
    return MultiHeadAttention(WIDTH, HEADS, attention=attention, shared_qk=shared, **options)


@pytest.mark.parametrize("attention", attentions("small"))
def test_a_layer_equals_its_attention_between_the_projections(attention: Attention) -> None:
    """The layer adds the projections and the learned parameters, and nothing else."""
    layer = layer_for(attention, dtype=torch.float64, seed=3)
    x, causal = tokens(), attention.info.causal_choices[-1]
    mask = padding() if "key_padding_mask" in attention.supports else None

    def heads(projection: nn.Linear | None) -> Tensor:
        made = x @ projection.weight.T + projection.bias
        return torch.stack(made.chunk(HEADS, dim=-1), dim=1)

    query = heads(layer.query_projection)
    key = query if layer.key_projection is None else heads(layer.key_projection)
    learned = {
        name: tensor.double()
        for name, tensor in attention.init_parameters(HEADS, WIDTH // HEADS, seed=3).items()
    }
    alone = attention(
        query,
        key,
        heads(layer.value_projection),
        causal=causal,
        key_padding_mask=mask,
        parameters=learned,
    )
    merged = torch.cat(alone.unbind(1), dim=-1)
    out = layer.output_projection
    assert_close(layer(x, causal=causal, key_padding_mask=mask), merged @ out.weight.T + out.bias)


@pytest.mark.parametrize("attention", attentions("small", where=supports("backward")))
def test_a_layer_with_any_variant_can_be_trained(attention: Attention) -> None:
    layer = layer_for(attention)
    learned = attention.init_parameters(HEADS, WIDTH // HEADS)
    found = {name for name, _ in layer.named_parameters() if name.startswith("attention_param")}
    assert found == {f"attention_parameters.{name}" for name in learned}
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    out = layer(tokens(dtype=torch.float32), causal=attention.info.causal_choices[-1])
    out.square().mean().backward()
    optimizer.step()
    # With softmax weights, a constant added to all keys cancels.
    free = {"key_projection.bias"}
    for name, parameter in layer.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert name in free or not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("attention", attentions("small"))
def test_a_layer_with_any_variant_can_be_saved_copied_and_pickled(attention: Attention) -> None:
    layer = layer_for(attention, position="rotary")
    x, causal = tokens(dtype=torch.float32), attention.info.causal_choices[-1]
    out = layer(x, causal=causal)
    other = layer_for(attention, position="rotary", seed=5)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    assert not torch.allclose(other(x, causal=causal), out)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    for again in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x, causal=causal), out)


# Dtypes, devices, compilers.


def test_layers_in_half_precision_keep_the_parameters_of_the_attention_in_float32() -> None:
    made = MultiHeadAttention(WIDTH, HEADS, attention="adaptive_span", dtype=torch.bfloat16)
    moved = MultiHeadAttention(WIDTH, HEADS, attention="adaptive_span").to(torch.bfloat16)
    for layer in (made, moved, copy.deepcopy(moved)):
        assert layer.attention_parameters["span"].dtype == torch.float32
        assert layer.query_projection.weight.dtype == torch.bfloat16
        assert layer(tokens(dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert moved.double().attention_parameters["span"].dtype == torch.float64
    assert torch.equal(
        MultiHeadAttention(WIDTH, HEADS, attention="adaptive_span")
        .to(torch.bfloat16)
        .attention_parameters["span"],
        variants.create("adaptive_span").init_parameters(HEADS, WIDTH // HEADS)["span"],
    )


@pytest.mark.parametrize("position", ["sinusoidal", "rotary", "relative_bias", "alibi"])
def test_under_autocast_the_output_has_the_dtype_of_torchs_layer(position: str) -> None:
    module = torch_module(dtype=torch.float32)
    layer = MultiHeadAttention.from_torch(module, position=position)
    x = tokens(dtype=torch.float32)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, theirs = layer(x), module(x, x, x, need_weights=False)[0]
    assert out.dtype == theirs.dtype == torch.bfloat16
    assert 0 < (out - exact).norm() / exact.norm() < 0.02
    out.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


# torch's compiler raises this warning itself and hides it, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("name", ["full", "sliding_window", "adaptive_span", "linear"])
def test_a_compiled_layer_gives_the_same_result(name: str) -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, attention=name, position="rotary")
    x, mask = tokens(dtype=torch.float32), padding()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    expected = layer(x, causal=True, key_padding_mask=mask)
    expected.square().sum().backward()
    grads = {key: p.grad.clone() for key, p in layer.named_parameters()}
    layer.zero_grad()
    out = compiled(x, causal=True, key_padding_mask=mask)
    assert_close(out, expected)
    out.square().sum().backward()
    for key, p in layer.named_parameters():
        assert_close(p.grad, grads[key])
    # The code does not test whether a mask hides everything, because it would wait for the result.
    mask[1] = True
    nothing = compiled(x, key_padding_mask=mask)[1]
    assert_close(nothing, layer.output_projection.bias.expand_as(nothing))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_torchs_own_kernel_is_part_of_the_graph() -> None:
    attention = variants.create("full", implementation="sdpa")
    layer = MultiHeadAttention(WIDTH, HEADS, attention=attention, position="rotary")
    x, mask = tokens(dtype=torch.float32), padding()
    torch._dynamo.reset()
    whole = torch.compile(layer, backend="aot_eager", fullgraph=True)
    out = whole(x, causal=True)
    assert_close(out, layer(x, causal=True))
    out.sum().backward()
    # Calls that this kernel does not support run on softmax tiles outside the graph.
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    assert_close(
        compiled(x, causal=True, key_padding_mask=mask),
        layer(x, causal=True, key_padding_mask=mask),
    )


@pytest.mark.parametrize("name", ["full", "additive"])
def test_a_layer_on_meta_is_initialised_by_reset_or_by_a_state(name: str) -> None:
    torch.manual_seed(1)
    real = MultiHeadAttention(WIDTH, HEADS, attention=name, position=Learned(WIDTH, 32))
    with torch.device("meta"):
        other = MultiHeadAttention(WIDTH, HEADS, attention=name, position=Learned(WIDTH, 32))
    assert {p.device.type for p in other.parameters()} == {"meta"}
    other.to_empty(device="cpu")
    with torch.no_grad():
        for p in other.parameters():
            p.fill_(torch.nan)
    torch.manual_seed(1)
    other.reset_parameters()
    assert all(torch.isfinite(p).all() for p in other.parameters())
    for key, tensor in real.attention_parameters.items():
        assert torch.equal(tensor, other.attention_parameters[key])
    other.load_state_dict(real.state_dict())
    x = tokens(dtype=torch.float32)
    assert torch.equal(real.query_projection(x), other.query_projection(x))


def test_the_repr_shows_the_settings() -> None:
    attention = variants.create("sliding_window", window_size=7)
    shown = repr(MultiHeadAttention(24, 4, 2, attention=attention, position="rotary"))
    assert "24, 4, kv_heads=2, shared_qk=False" in shown
    assert repr(attention) in shown
    assert "(position): Rotary(6, base=10000.0, interleaved=False)" in shown


# Shared query and key.


def test_a_shared_key_is_the_query_tensor() -> None:
    seen = []

    class Spy(type(variants.create("full"))):  # type: ignore[misc]
        def __call__(self, query: Tensor, key: Tensor, value: Tensor, **call: Any) -> Tensor:
            seen.append(key is query)
            return super().__call__(query, key, value, **call)

    for position in (None, "rotary", "sinusoidal"):
        layer = MultiHeadAttention(24, 4, attention=Spy(), shared_qk=True, position=position)
        x = tokens(dtype=torch.float32)
        out = layer(x)
        assert "key_projection.weight" not in layer.state_dict()
        assert torch.equal(layer(x, x, x), out)
        plain = MultiHeadAttention(24, 4, position=position)
        state = layer.state_dict()
        state |= {f"key_projection.{p}": state[f"query_projection.{p}"] for p in ("weight", "bias")}
        plain.load_state_dict(state)
        assert_close(plain(x), out)
    assert seen == [True] * 6


# Token by token.


def positions_for(attention: Attention) -> list[Callable[[], Position | str | None]]:
    """An encoding for each attention. One attention with a bias and one without are tested with all
    encodings."""
    if attention.info.name not in ("attention_sinks", "linear"):
        return [lambda: "rotary"]
    found: list[Callable[[], Position | str | None]] = [
        lambda: None,
        lambda: "sinusoidal",
        lambda: "rotary",
        lambda: Learned(WIDTH, 64),
    ]
    if "distance_bias" in attention.supports:
        found += [lambda: "relative_bias", lambda: "alibi"]
        found += [lambda: RelativeBias(HEADS, 8, 16, bidirectional=False)]
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"padded": True}, {"kv_heads": 2}, {"shared_qk": True}],
    ids=["plain", "padded", "grouped", "shared"],
)
@pytest.mark.parametrize("attention", attentions("small", where=supports("step", "causal")))
def test_prefill_and_steps_give_the_causal_forward_pass(
    attention: Attention, options: dict[str, Any]
) -> None:
    mask = padding() if "padded" in options else None
    options = {name: value for name, value in options.items() if name != "padded"}
    for make in positions_for(attention):
        layer = MultiHeadAttention(
            WIDTH, HEADS, attention=attention, position=make(), **options, dtype=torch.float64
        )
        with torch.no_grad():
            if isinstance(layer.position, RelativeBias | Learned):
                layer.position.weight.normal_()
            x = tokens()
            expected = layer(x, causal=True, key_padding_mask=mask)
            cuts = [0, 6, 7, 8, 12, TOKENS]
            found, state = [], None
            for start, end in pairwise(cuts):
                call = {"key_padding_mask": None if mask is None else mask[:, start:end]}
                new = x[:, start:end]
                if state is None:
                    out, state = layer.prefill(new, **call)
                else:
                    out, state = layer.step(state, new, **call)
                found.append(out)
            assert state.length == TOKENS
            real = ~padding() if mask is not None else torch.ones(BATCH, TOKENS, dtype=torch.bool)
            assert_close(torch.cat(found, dim=1)[real], expected[real])


def test_layers_that_cannot_step_raise() -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, attention="lsh")
    with torch.no_grad(), pytest.raises(UnsupportedError, match="lsh does not support 'step'"):
        layer.prefill(tokens(dtype=torch.float32))
    layer = MultiHeadAttention(WIDTH, HEADS)
    with pytest.raises(UnsupportedError, match=r"call prefill and step under torch\.no_grad"):
        layer.prefill(tokens(dtype=torch.float32))
    with pytest.raises(ValueError, match="needs the state that prefill or step returned; got int"):
        layer.step(3, tokens(dtype=torch.float32))


# The block.


def test_the_block_is_norm_attention_and_perceptron_with_residuals() -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, position="rotary", dtype=torch.float64)
    block = TransformerBlock(layer, hidden_dim=10)
    x, mask = tokens(), padding()
    centred = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    middle = x + layer(centred, causal=True, key_padding_mask=mask)
    centred = middle - middle.mean(-1, keepdim=True)
    centred = centred / (middle.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    first, _, second = block.mlp
    assert first.out_features == 10
    expected = middle + second(nn.functional.gelu(first(centred)))
    assert_close(block(x, causal=True, key_padding_mask=mask), expected)


def test_decoding_with_blocks_equals_the_call_on_all_tokens() -> None:
    blocks = [
        TransformerBlock(MultiHeadAttention(WIDTH, HEADS, position=p, dtype=torch.float64))
        for p in ("rotary", "sinusoidal")
    ]
    x, mask = tokens(), padding()
    with torch.no_grad():
        expected = x
        for block in blocks:
            expected = block(expected, causal=True, key_padding_mask=mask)
        found, states = [], []
        out = x[:, :9]
        for block in blocks:
            out, state = block.prefill(out, key_padding_mask=mask[:, :9])
            states.append(state)
        found.append(out)
        for i in range(9, TOKENS):
            out = x[:, i : i + 1]
            for j, block in enumerate(blocks):
                out, states[j] = block.step(states[j], out, key_padding_mask=mask[:, i : i + 1])
            found.append(out)
    assert_close(torch.cat(found, dim=1), expected)


# Bad input: one message each.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 25}, r"a multiple of num_heads; got embed_dim=25, num_heads=4"),
        ({"kv_heads": 3}, "kv_heads must divide num_heads; got num_heads=4, kv_heads=3"),
        ({"kv_heads": 0}, "kv_heads must be an integer of at least 1; got 0"),
        ({"num_heads": 2.0}, r"num_heads must be an integer of at least 1; got 2\.0"),
        ({"key_dim": -1}, "key_dim must be an integer of at least 1; got -1"),
        ({"attention": "slidng"}, "unknown variant 'slidng' .*; known variants: .*sliding_window"),
        ({"attention": ""}, "unknown variant ''"),
        ({"attention": 3}, "variants.create, or be a text such as 'lsh num_hashes=4'; got 3"),
        ({"shared_qk": True, "kv_heads": 2}, "needs kv_heads == num_heads.*got kv_heads=2"),
        ({"shared_qk": True, "key_dim": 8}, "key_dim == embed_dim.*key_dim=8"),
        (
            {"attention": variants.create("lsh", shared_qk=True)},
            "lsh shared_qk=True needs.*make the layer with shared_qk=True; got shared_qk=False",
        ),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"embed_dim": WIDTH, "num_heads": HEADS} | options
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**settings)


def shape(*sizes: int) -> Tensor:
    return torch.zeros(sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([shape(2, 5, 23)], "query must be (batch, tokens, embed_dim = 24); got (2, 5, 23)"),
        ([shape(5, 24)], "query must be (batch, tokens, embed_dim = 24); got (5, 24)"),
        (
            [shape(2, 5, 24)],
            "key must be (batch, tokens, key_dim = 8); got (2, 5, 24), because no key was given",
        ),
        ([shape(2, 5, 24), shape(5, 8)], "key must be (batch, tokens, key_dim = 8); got (5, 8)"),
        (
            [shape(2, 5, 24), shape(2, 5, 8)],
            "value must be (batch, tokens, value_dim = 9); got (2, 5, 8), because no value was",
        ),
        ([shape(2, 5, 24), shape(2, 5, 8), shape(2, 6, 9)], "must have the same shape"),
        ([shape(2, 5, 24), shape(3, 5, 8), shape(3, 5, 9)], "must agree in batch"),
    ],
)
def test_invalid_tensors_are_refused(arguments: list[Tensor], message: str) -> None:
    layer = MultiHeadAttention(24, 4, key_dim=8, value_dim=9)
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        layer(*arguments)
    assert ("was given" in str(refused.value)) == ("because no" in message)


def test_a_shared_layer_refuses_another_key() -> None:
    layer, x = MultiHeadAttention(24, 4, shared_qk=True), shape(2, 5, 24)
    with pytest.raises(ValueError, match="uses its queries as keys: leave key out"):
        layer(x, x.clone())


def test_an_inverted_mask_is_detected_if_it_hides_every_key() -> None:
    layer, x = MultiHeadAttention(WIDTH, HEADS), tokens(dtype=torch.float32)
    kept = ~padding()
    for call in (layer, layer.prefill):
        with torch.no_grad(), pytest.raises(ValueError, match="every key of sequence 2: True mea"):
            call(x, key_padding_mask=kept)
    with pytest.raises(ValueError, match=r"of sequence 0, 1, 2: .* pass `~mask`"):
        layer(x, key_padding_mask=torch.ones_like(kept))
    layer(x, key_padding_mask=~kept)
    with torch.no_grad():
        _, state = layer.prefill(x, key_padding_mask=~kept)
        ended = torch.tensor([[True], [False], [False]])
        layer.step(state, x[:, :1], key_padding_mask=ended)  # one sequence is all padding: no error


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_masks_of_numbers_are_refused_with_the_correct_conversion(dtype: torch.dtype) -> None:
    layer, x = MultiHeadAttention(WIDTH, HEADS), tokens(dtype=torch.float32)
    mask = (~padding()).to(dtype)
    with pytest.raises(ValueError, match=r"must be a bool.*got torch\..*pass `mask == 0`"):
        layer(x, key_padding_mask=mask)
    layer(x, key_padding_mask=mask == 0)


def test_a_mask_of_another_shape_is_refused_by_the_contract() -> None:
    layer, x = MultiHeadAttention(WIDTH, HEADS), tokens(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"must be bool of shape \(3, 19\).*got.*\(19, 3\)"):
        layer(x, key_padding_mask=torch.ones(TOKENS, BATCH, dtype=torch.bool))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"query": None}, r"query must be a tensor \(batch, tokens, embed_dim = .*; got NoneType"),
        (
            {"query": torch.zeros(2, 3, WIDTH, dtype=torch.float16)},
            r"query must have the layer's dtype torch\.float64, except under autocast; got .*16",
        ),
        (
            {"query": tokens(), "key_padding_mask": [[True]]},
            "key_padding_mask must be a bool tensor .*; got list",
        ),
    ],
)
def test_inputs_that_are_no_tensor_or_have_another_dtype_are_refused(
    call: dict[str, Any], message: str
) -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{message}"):
        layer(**call)
