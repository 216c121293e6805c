"""Each position encoding has its defining property, by itself and in a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from variants import REGISTRY, MultiHeadAttention, UnsupportedError
from variants.layer.encodings import Alibi, Learned, Position, RelativeBias, Rotary, Sinusoidal

BATCH, TOKENS, WIDTH, HEADS = 2, 11, 24, 4


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def tokens(length: int = TOKENS, width: int = WIDTH) -> Tensor:
    return torch.randn(BATCH, length, width, dtype=torch.float64)


def layer_with(position: Position | str | None, **options: Any) -> MultiHeadAttention:
    """A layer in float64 with weights that do not depend on the position."""
    torch.manual_seed(1)
    return MultiHeadAttention(WIDTH, HEADS, position=position, dtype=torch.float64, **options)


# Encodings that are added to tokens.


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_equal_those_of_the_paper(width: int) -> None:
    found = Sinusoidal(width)(torch.zeros(1, 5, width, dtype=torch.float64), start=1000)[0]
    for row, position in enumerate(range(1000, 1005)):
        for channel in range(width):
            angle = position / 10000 ** (channel // 2 * 2 / width)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert float(found[row, channel]) == pytest.approx(expected, abs=1e-12)


def test_products_of_sinusoids_depend_only_on_the_distance() -> None:
    table = Sinusoidal(16)(torch.zeros(40, 16, dtype=torch.float64))
    products = table @ table.T
    for shift in (0, 1, 7):
        diagonal = products.diagonal(shift)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_learned_positions_are_rows_of_a_trained_table() -> None:
    position = Learned(WIDTH, 32)
    assert float(position.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    x = torch.randn(BATCH, TOKENS, WIDTH)
    out = position(x, start=4)
    assert torch.equal(out, x + position.weight[4 : 4 + TOKENS])
    out.sum().backward()
    asked = torch.zeros(32)
    asked[4 : 4 + TOKENS] = BATCH
    assert torch.equal(position.weight.grad, asked[:, None].expand(-1, WIDTH))


@pytest.mark.parametrize("start", [-1, 22])
def test_positions_outside_the_learned_table_raise(start: int) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 31; got positions .*larger max_len"):
        Learned(WIDTH, 32)(torch.zeros(1, TOKENS, WIDTH), start)


@pytest.mark.parametrize("position", [Sinusoidal(WIDTH), Learned(WIDTH, 32)], ids=["sin", "table"])
def test_added_positions_equal_those_of_embeddings_that_have_them(position: Position) -> None:
    placed, plain = layer_with(position), layer_with(None)
    x = tokens()
    assert_close(placed(x), plain(position(x)))
    assert not torch.allclose(placed(x), plain(x), atol=1e-4)
    key, value = tokens(17), tokens(17)
    query = position(x, start=17 - TOKENS)
    assert_close(placed(x, key, value), plain(query, position(key), position(value)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_positions_keep_the_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(BATCH, HEADS, TOKENS, WIDTH, dtype=dtype)
    for position in (Sinusoidal(WIDTH), Learned(WIDTH, 32), Rotary(WIDTH)):
        assert position(x).dtype == dtype
        assert_close(position(x), position(x.double()).to(dtype))


# Rotary encoding.


def turned_by_hand(x: Tensor, start: int, base: float, pairs: list[tuple[int, int]]) -> Tensor:
    out = x.clone()
    for token in range(x.shape[-2]):
        for i, (a, b) in enumerate(pairs):
            angle = (start + token) * base ** (-2 * i / x.shape[-1])
            one, two = x[..., token, a], x[..., token, b]
            out[..., token, a] = one * math.cos(angle) - two * math.sin(angle)
            out[..., token, b] = one * math.sin(angle) + two * math.cos(angle)
    return out


@pytest.mark.parametrize("start", [0, -3, 5000])
@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_rotary_rotates_pairs_of_channels(base: float, start: int) -> None:
    x = torch.randn(BATCH, HEADS, 5, 8, dtype=torch.float64)
    halves = [(i, i + 4) for i in range(4)]
    neighbours = [(2 * i, 2 * i + 1) for i in range(4)]
    assert_close(Rotary(8, base)(x, start), turned_by_hand(x, start, base, halves))
    interleaved = Rotary(8, base, interleaved=True)
    assert_close(interleaved(x, start), turned_by_hand(x, start, base, neighbours))


@pytest.mark.parametrize("interleaved", [False, True])
def test_products_of_rotated_queries_and_keys_depend_only_on_the_distance(
    interleaved: bool,
) -> None:
    query, key = torch.randn(2, 1, 8, dtype=torch.float64)
    rotary = Rotary(8, interleaved=interleaved)

    def product(i: int, j: int) -> float:
        return float((rotary(query, i) * rotary(key, j)).sum())

    near = [product(i, i - 3) for i in (3, 10, 100_000)]
    assert near == pytest.approx([near[0]] * 3)
    assert product(3, 0) != pytest.approx(product(0, 3))
    assert product(3, 0) != pytest.approx(product(4, 0))


def test_rotary_in_a_layer_rotates_query_and_key_but_not_the_value() -> None:
    layer, x, memory = layer_with("rotary", kv_heads=2), tokens(), tokens(17)
    turn = Rotary(WIDTH // HEADS)

    def heads(projected: Tensor, count: int) -> Tensor:
        return torch.stack(projected.chunk(count, dim=-1), dim=1)

    query = turn(heads(layer.query_projection(x), HEADS), start=17 - TOKENS)
    key = turn(heads(layer.key_projection(memory), 2))
    value = heads(layer.value_projection(memory), 2)
    out = variants.create("full")(query, key, value, causal=True)
    expected = layer.output_projection(torch.cat(out.unbind(1), dim=-1))
    assert_close(layer(x, memory, causal=True), expected)


def test_with_rotary_the_output_of_a_layer_does_not_depend_on_the_start_of_the_sequence() -> None:
    layer, x = layer_with("rotary"), tokens()
    mask = torch.zeros(BATCH, TOKENS + 5, dtype=torch.bool)
    mask[:, :5] = True
    later = torch.cat([tokens(5), x], dim=1)
    assert_close(layer(later, causal=True, key_padding_mask=mask)[:, 5:], layer(x, causal=True))


def test_rotary_needs_an_even_head_dim() -> None:
    with pytest.raises(ValueError, match="head_dim must be even; got 7"):
        Rotary(7)
    with pytest.raises(ValueError, match="head_dim must be even; got 3"):
        MultiHeadAttention(12, 4, position="rotary")


# Biases by distance.


def bucket_by_hand(distance: int, num_buckets: int, max_distance: int, bidirectional: bool) -> int:
    """The rule in integers: step k begins where (n / exact)^coarse reaches (max_distance /
    exact)^k."""
    back, first = -distance, 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
        back = abs(distance)
    back, exact = max(back, 0), num_buckets // 2
    if back < exact:
        return first + back
    coarse, k = num_buckets - exact, 0
    while k + 1 < coarse and (
        back**coarse * exact ** (k + 1) >= max_distance ** (k + 1) * exact**coarse
    ):
        k += 1
    return first + exact + k


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(32, 128), (16, 20), (12, 375), (8, 1000), (4, 9)]
)
def test_buckets_are_exact_for_small_distances_and_logarithmic_for_large_ones(
    num_buckets: int, max_distance: int, bidirectional: bool
) -> None:
    position = RelativeBias(HEADS, num_buckets, max_distance, bidirectional)
    distances = torch.arange(-3 * max_distance, 3 * max_distance)
    expected = [bucket_by_hand(int(x), num_buckets, max_distance, bidirectional) for x in distances]
    assert position.buckets(distances).tolist() == expected
    assert set(expected) == set(range(num_buckets)) - (
        {num_buckets // 2} if bidirectional else set()
    )


def published_buckets(distance: Tensor, bidirectional: bool) -> Tensor:
    """The formula of the T5 paper's code for 32 buckets up to 128, in float32 as in that code."""
    buckets, first = 32, torch.zeros_like(distance)
    if bidirectional:
        buckets = 16
        first = (distance > 0) * buckets
        back = distance.abs()
    else:
        back = (-distance).clamp(min=0)
    exact = buckets // 2
    steps = torch.log(back.float() / exact) / math.log(128 / exact) * (buckets - exact)
    far = (exact + steps.clamp(min=0).long()).clamp(max=buckets - 1)
    return first + torch.where(back < exact, back, far)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_pretrained_tables_fit(bidirectional: bool) -> None:
    distances = torch.arange(-500, 500)
    found = RelativeBias(HEADS, bidirectional=bidirectional).buckets(distances)
    assert torch.equal(found, published_buckets(distances, bidirectional))


def test_alibi_has_the_slopes_of_the_paper() -> None:
    assert Alibi(8).slopes == [2.0**-k for k in range(1, 9)]
    assert Alibi(16).slopes == pytest.approx([2 ** (-k / 2) for k in range(1, 17)])
    # 12 heads: the slopes of 8 heads, then the odd ones of 16 heads.
    assert Alibi(12).slopes == pytest.approx(
        [2.0**-k for k in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    )
    assert Alibi(1).slopes == [2**-8]
    bias = Alibi(12)(1, 1000, torch.float64, torch.device("cpu"))
    assert float(bias[8, 0]) == pytest.approx(-999 * 2**-0.5, rel=1e-15)


@pytest.mark.parametrize(("query_len", "key_len"), [(5, 5), (1, 9), (4, 9), (6, 2)])
def test_a_bias_has_the_layout_of_the_contract(query_len: int, key_len: int) -> None:
    alibi, relative = Alibi(HEADS), RelativeBias(HEADS, 8, 6)
    for i in range(query_len):
        for j in range(key_len):
            entry, distance = j - i + query_len - 1, j - (i + key_len - query_len)
            for head in range(HEADS):
                expected = -alibi.slopes[head] * abs(distance)
                assert float(alibi(query_len, key_len)[head, entry]) == pytest.approx(expected)
            bucket = bucket_by_hand(distance, 8, 6, True)
            assert torch.equal(relative(query_len, key_len)[:, entry], relative.weight[bucket])
    for position in (alibi, relative):
        assert position(query_len, key_len).shape == (HEADS, query_len + key_len - 1)


def with_distance_bias() -> list[str]:
    return sorted(x for x, cls in REGISTRY.items() if "distance_bias" in cls.info.supports)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["relative_bias", "alibi"])
def test_a_layer_with_a_bias_adds_it_to_the_scores(name: str, causal: bool) -> None:
    layer, x, memory = layer_with(name), tokens(), tokens(17)
    if isinstance(layer.position, RelativeBias):
        torch.nn.init.normal_(layer.position.weight)
    query, key, value = (
        torch.stack(projection(y).chunk(HEADS, dim=-1), dim=1)
        for projection, y in (
            (layer.query_projection, x),
            (layer.key_projection, memory),
            (layer.value_projection, memory),
        )
    )
    scores = query @ key.mT / (WIDTH // HEADS) ** 0.5
    for i in range(TOKENS):
        for j in range(17):
            distance = j - (i + 17 - TOKENS)
            if isinstance(layer.position, RelativeBias):
                extra = layer.position.weight[bucket_by_hand(distance, 32, 128, True)]
            else:
                extra = -abs(distance) * torch.tensor(layer.position.slopes, dtype=torch.float64)
            scores[:, :, i, j] += torch.where(
                torch.tensor(causal and distance > 0), -torch.inf, extra
            )
    out = torch.cat((scores.softmax(-1) @ value).unbind(1), dim=-1)
    assert_close(layer(x, memory, causal=causal), layer.output_projection(out))


@pytest.mark.parametrize("name", with_distance_bias())
def test_a_relative_bias_can_be_trained(name: str) -> None:
    layer = layer_with("relative_bias", attention=name)
    layer(tokens()).square().sum().backward()
    grad = layer.position.weight.grad
    seen = {bucket_by_hand(x, 32, 128, True) for x in range(1 - TOKENS, TOKENS)}
    assert set(grad.abs().sum(1).nonzero().flatten().tolist()) == seen


@pytest.mark.parametrize("position", ["relative_bias", "alibi", RelativeBias(HEADS), Alibi(HEADS)])
def test_attentions_without_support_for_a_bias_refuse_one(position: str | Position) -> None:
    able = ", ".join(with_distance_bias())
    message = (
        "needs distance_bias, which linear feature_map=elu does not support; these variants do: "
        f"{able}$"
    )
    with pytest.raises(UnsupportedError, match=message):
        MultiHeadAttention(WIDTH, HEADS, attention="linear", position=position)


@pytest.mark.parametrize(
    "arguments",
    [(HEADS, 30), (HEADS, 2), (HEADS, 3, 9, False), (HEADS, 32, 8), (HEADS, 32, 16, False)],
)
def test_invalid_buckets_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"num_buckets must be a multiple of.*max_distance"):
        RelativeBias(*arguments)


# Position arguments of a layer.


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("rotery", r"one of sinusoidal, rotary, relative_bias, alibi, or an instance.*'rotery'"),
        ("learned", r"such as Learned\(embed_dim, max_len\).*got 'learned'"),
        (Rotary, "or an instance from variants.layer.encodings.*got <class"),
        (7, "or an instance.*got 7"),
        (Rotary(8), "Rotary must be made for the layer's head_dim 6; got 8"),
        (Learned(20, 9), "Learned must be made for the layer's embed_dim 24; got 20"),
        (Alibi(3), "Alibi must be made for the layer's num_heads 4; got 3"),
    ],
)
def test_invalid_positions_are_refused(position: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(WIDTH, HEADS, position=position)


def test_an_added_encoding_needs_query_and_key_of_one_width() -> None:
    with pytest.raises(ValueError, match="must have one width; got embed_dim=24, key_dim=8"):
        MultiHeadAttention(WIDTH, HEADS, position="sinusoidal", key_dim=8)
    MultiHeadAttention(WIDTH, HEADS, position="rotary", key_dim=8)


@pytest.mark.parametrize("position", [Sinusoidal(8), Learned(8, 9), Rotary(8)])
def test_tokens_of_another_width_are_refused(position: Position) -> None:
    with pytest.raises(ValueError, match=r"must be \(\.\.\., tokens, .* = 8\); got \(2, 5, 7\)"):
        position(torch.zeros(2, 5, 7))


def test_a_users_position_encoding_is_one_class() -> None:
    class Reversed(Position):
        def added(self, hidden: Tensor, start: int) -> Tensor:
            return hidden.flip(1)

    x = tokens()
    assert_close(layer_with(Reversed())(x), layer_with(None)(x.flip(1)))


def test_layers_may_share_one_instance() -> None:
    position = RelativeBias(HEADS)
    layers = torch.nn.Sequential(*(layer_with(position) for _ in range(2)))
    names = [name for name, _ in layers.named_parameters() if "position" in name]
    assert names == ["0.position.weight"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotary(0), "head_dim must be an integer of at least 1; got 0"),
        (lambda: Rotary(8.0), r"head_dim must be an integer of at least 1; got 8\.0"),
        (lambda: Rotary(8, base=0), "base must be a number above 0; got 0"),
        (lambda: Alibi(-1), "num_heads must be an integer of at least 1; got -1"),
        (lambda: Sinusoidal(-3), "embed_dim must be an integer of at least 1; got -3"),
        (lambda: Learned(8, 0), "max_len must be an integer of at least 1; got 0"),
        (lambda: RelativeBias(0), "num_heads must be an integer of at least 1; got 0"),
        (lambda: RelativeBias(4, 32, 8.5), r"max_distance must be an integer .*; got 8\.5"),
    ],
)
def test_numbers_of_an_encoding_are_checked(make: Callable[[], Position], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()
