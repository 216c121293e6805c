"""Properties of the engines beyond the results that the contract tests: routes, buffers, bounds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from bench.instruments import accuracy, memory
from variants import Attention
from variants.contract.pattern import Pattern
from variants.engines.primitives.head_slabs import slabs
from variants.engines.primitives.precision import Precision, product
from variants.engines.primitives.softmax_tile import Scratch
from variants.engines.rounds import lsh_hash
from variants.engines.rounds.round_tiles import stable_order
from variants.engines.tiled.layouts.all_keys import AllKeys
from variants.engines.tiled.layouts.key_blocks import KeyBlocks
from variants.engines.tiled.layouts.window import Window
from variants.masked.pattern_layouts import layouts_of

CPU = torch.device("cpu")


def coarse_variants() -> list[str]:
    return [n for n, cls in variants.REGISTRY.items() if "coarse" in cls.info.reduced_precision]


def served() -> list[tuple[str, bool]]:
    """Each variant with each value of `causal` that it supports."""
    return [(n, c) for n, cls in sorted(variants.REGISTRY.items()) for c in cls.info.causal_choices]


@pytest.mark.parametrize("batch", [(1,), (3,), (1, 1), (1, 2)])
@pytest.mark.parametrize("layout", ["plain", "transposed", "strided"])
def test_a_product_accepts_any_layout(batch: tuple[int, ...], layout: str) -> None:
    left = torch.randn(*batch, 5, 6, dtype=torch.float64)
    right = {
        "plain": torch.randn(*batch, 6, 7, dtype=torch.float64),
        "transposed": torch.randn(*batch, 7, 6, dtype=torch.float64).mT,
        "strided": torch.randn(*batch, 6, 14, dtype=torch.float64)[..., ::2],
    }[layout]
    out = torch.empty(*batch, 5, 7, dtype=torch.float64)
    assert product(left, right, Precision(torch.float64, torch.float64), out) is out
    torch.testing.assert_close(out, left @ right)


class TestScratch:
    def test_scratch_returns_the_same_memory_for_the_same_name(self) -> None:
        scratch = Scratch(CPU)
        first = scratch("a", (4, 5), torch.float32)
        assert scratch("a", (2, 3), torch.float32).data_ptr() == first.data_ptr()
        assert scratch("b", (4, 5), torch.float32).data_ptr() != first.data_ptr()
        assert scratch("a", (4, 5), torch.bfloat16).dtype is torch.bfloat16
        assert scratch("a", (40, 5), torch.float32).shape == (40, 5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_scaled_copy_is_rounded_once(self, dtype: torch.dtype) -> None:
        tensor = torch.randn(3, 50).to(dtype)
        copied = Scratch(CPU).copy("a", tensor.T, torch.float32, 0.3)
        assert copied.is_contiguous()
        torch.testing.assert_close(copied, tensor.T.float() * 0.3, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "at_once"),
    [(6, 6, 0), (6, 6, 4), (6, 6, 100), (6, 2, 1), (6, 2, 2), (6, 2, 5), (6, 1, 4)],
)
def test_slabs_cover_all_heads_and_name_the_key_head_of_each(
    heads: int, kv_heads: int, at_once: int
) -> None:
    query = torch.zeros(2, heads, 3, 1)
    key = torch.arange(2.0 * kv_heads).view(2, kv_heads, 1, 1)
    owners, seen = [], []
    total = torch.zeros_like(key)
    for slab in slabs(query, key, at_once):
        assert slab.heads.stop - slab.heads.start <= max(1, at_once)
        seen += list(range(slab.heads.start, slab.heads.stop))
        owners += slab.keys(key).flatten().tolist()
        working = slab.working(key, "a", torch.float64, Scratch(CPU))
        assert working.flatten().tolist() == slab.keys(key).flatten().tolist()
        with slab.adding(total) as own:
            own += torch.ones(slab.heads.stop - slab.heads.start, 1, 1)
    assert seen == list(range(2 * heads))
    assert owners == [float(head // (heads // kv_heads)) for head in seen]
    assert total.flatten().tolist() == [heads // kv_heads] * 2 * kv_heads


@pytest.mark.parametrize("limit", [7, 1 << 16, (1 << 16) + 1, 1 << 40])
def test_codes_are_sorted_and_equal_codes_keep_their_order(limit: int) -> None:
    """By NumPy up to sixteen bits, by torch for more."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, min(limit, 50), (3000,), generator=generator)
    codes[::7] = limit - 1
    order = stable_order(codes, limit)
    assert torch.equal(order, torch.sort(codes, stable=True).indices)


def test_the_nearest_axis_is_that_of_the_largest_component() -> None:
    turned = torch.randn(3, 5, 400, generator=torch.Generator().manual_seed(0))
    both = torch.cat([turned, -turned], dim=1)
    assert torch.equal(lsh_hash._nearest_axis(turned), both.argmax(1))
    broken = torch.full((1, 5, 2), torch.nan)
    assert lsh_hash._nearest_axis(broken).tolist() == [[5, 5]]


class TestLayouts:
    """The choice of a layout. The contract tests that each layout is correct."""

    @pytest.mark.parametrize(
        ("pattern", "kinds"),
        [
            (Pattern(2000, 2000, False, window=100), [Window]),
            (Pattern(2000, 2000, False, window=100, leading=5), [Window, AllKeys]),
            (Pattern(2000, 2000, True, window=1, block_size=16), [KeyBlocks]),
            (
                Pattern(2000, 2000, False, window=1, block_size=16, leading=16, trailing=16),
                [KeyBlocks, AllKeys, AllKeys],
            ),
            # If a layout saves no keys, one set of rows against all keys is used.
            (Pattern(300, 300, False, window=200, leading=5), [AllKeys]),
            (Pattern(100, 100, False, window=1, block_size=50), [AllKeys]),
        ],
    )
    def test_the_chosen_layout_is_the_one_that_saves_keys(
        self, pattern: Pattern, kinds: list[type]
    ) -> None:
        layouts = layouts_of(pattern, 2, CPU)
        assert [type(layout) for layout in layouts] == kinds
        rows = sorted((layout.first, layout.last) for layout in layouts)
        assert rows[0][0] == 0
        assert rows[-1][1] == pattern.query_len
        assert all(one[1] == other[0] for one, other in itertools.pairwise(rows))

    def test_there_are_no_more_slots_than_the_pattern_needs(self) -> None:
        band = Window.of(Pattern(2000, 2000, False, window=100, leading=5), 5, 2000)
        assert band.keys == 100 + band.rows + 100 + 5
        causal = Window.of(Pattern(2000, 2000, True, window=100, leading=5), 5, 2000)
        assert causal.keys == 100 + causal.rows + 5


@pytest.mark.parametrize("name", coarse_variants())
def test_coarse_scores_have_an_error_within_their_bound(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 2, 600, 32, generator=generator).bfloat16() for _ in range(3)
    )
    exact = variants.create(name)

    def error(attention: Attention, causal: bool) -> float:
        weights = exact.weights(query.double(), key.double(), causal=causal)
        right = weights @ value.double()
        out = attention(query, key, value, causal=causal)
        assert out.dtype is torch.bfloat16
        return float((out.double() - right).norm() / right.norm())

    for causal in exact.info.causal_choices:
        auto = error(exact, causal)
        coarse = error(variants.create(name, implementation="coarse"), causal)
        assert auto < accuracy.rounding("bfloat16")
        assert 1.1 * auto < coarse < accuracy.rounding("bfloat16", reduced_precision=True)


def test_coarse_changes_nothing_in_float32() -> None:
    assert accuracy.rounding("float64", reduced_precision=True) == accuracy.rounding("float64")
    query, key, value = (torch.randn(1, 2, 50, 8, dtype=torch.float64) for _ in range(3))
    for name in coarse_variants():
        info = variants.REGISTRY[name].info
        outs: list[Tensor] = [
            variants.create(name, implementation=one)(
                query, key, value, causal=info.causal_choices[0]
            )
            for one in (info.implementations[0], "coarse")
        ]
        torch.testing.assert_close(outs[0], outs[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "bound"),
    [
        ("full", {}, 0.3),
        ("sliding_window", {}, 0.6),
        ("longformer", {}, 0.6),
        ("bigbird", {}, 0.6),
        ("linear", {}, 0.35),
        ("performer", {}, 0.35),
        ("lsh", {"num_hashes": 1}, 1.6),
        ("lsh", {"num_hashes": 4}, 2.5),
        ("attention_sinks", {}, 0.6),
        ("adaptive_span", {}, 0.6),
        ("transformer_xl", {}, 0.8),
        ("block_summary", {}, 0.6),
        ("hierarchical", {}, 0.8),
        ("compressed", {}, 0.4),
        ("linformer", {}, 0.35),
        ("nystrom", {}, 0.35),
        ("chunked_state", {"rule": "retention"}, 0.5),
        ("chunked_state", {"rule": "gated_delta"}, 0.6),
        ("block_top_k", {}, 0.9),
    ],
)
def test_peak_memory_is_a_small_multiple_of_the_inputs(
    name: str, settings: dict[str, Any], bound: float
) -> None:
    """A multiple of query, key, value and output together, at 8 heads of 16384 tokens and 64
    channels. The output is 0.25."""
    length = 16384 if name != "full" else 4096
    query, key, value = (torch.randn(1, 8, length, 64) for _ in range(3))
    attention = variants.create(name, **settings)

    def call() -> Tensor:
        with torch.no_grad():
            return attention(query, key, value, causal=attention.info.causal_only)

    call()  # draws that are cached between calls
    unit = 4 * query.numel() * query.element_size()
    found = memory.peak_bytes(call, CPU) / unit
    small = 16384 / length  # buffers that do not depend on the length
    assert 0.25 <= found <= 0.25 + (bound - 0.25) * small


def gradients(attention: Attention, *inputs: Tensor, **call: Any) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(*leaves, **call)
    return out.detach(), *torch.autograd.grad(out.square().sum(), leaves)


def by_definition(attention: Attention, *inputs: Tensor, **call: Any) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention.weights(*leaves[:2], **call) @ leaves[2]
    return out.detach(), *torch.autograd.grad(out.square().sum(), leaves)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(("query_len", "key_len"), [(700, 90), (700, 300), (700, 1), (600, 500)])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("full", {}),
        ("full", {"implementation": "plain"}),
        ("sliding_window", {"window_size": 5}),
        ("sliding_window", {"window_size": 10_000}),
        ("longformer", {"window_size": 3, "num_global_tokens": 4}),
        ("bigbird", {"block_size": 8}),
        ("linear", {}),
    ],
)
def test_many_more_queries_than_keys(
    name: str, settings: dict[str, Any], query_len: int, key_len: int, causal: bool
) -> None:
    """More rows than a tile holds precede the first key."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 2, length, 4, generator=generator, dtype=torch.float64)
        for length in (query_len, key_len, key_len)
    )
    attention = variants.create(name, **settings)
    mine = gradients(attention, query, key, value, causal=causal)
    for own, right in zip(
        mine, by_definition(attention, query, key, value, causal=causal), strict=True
    ):
        torch.testing.assert_close(own, right)


@pytest.mark.parametrize(("name", "causal"), served())
def test_a_graph_may_be_used_twice(name: str, causal: bool) -> None:
    query, key, value = (torch.randn(1, 2, 300, 8, requires_grad=True) for _ in range(3))
    out = variants.create(name)(query, key, value, causal=causal).square().sum()
    inputs = (query, key, value)
    first = torch.autograd.grad(out, inputs, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(out, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -0.5])
@pytest.mark.parametrize("name", ["full", "sliding_window"])
def test_a_scale_may_be_zero_or_negative(name: str, scale: float) -> None:
    inputs = [torch.randn(1, 2, 70, 4, dtype=torch.float64) for _ in range(3)]
    for dtype in (torch.float64, torch.float32):
        given = [x.to(dtype) for x in inputs]
        call: dict[str, Any] = {"causal": True, "scale": scale}
        attention = variants.create(name)
        for own, right in zip(
            gradients(attention, *given, **call),
            by_definition(attention, *inputs, **call),
            strict=True,
        ):
            torch.testing.assert_close(own.double(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, causal in served() if causal])
def test_later_tokens_change_no_earlier_row_not_even_by_rounding(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(1, 2, 400, 16, generator=generator) for _ in range(3)]
    attention = variants.create(name)
    before = attention(*inputs, causal=True)
    for cut in (130, 255, 399):
        for amplitude in (1.0, 30.0):
            later = [x.clone() for x in inputs]
            for x in later:
                x[:, :, cut:] = amplitude * torch.randn(1, 2, 400 - cut, 16, generator=generator)
            after = attention(*later, causal=True)
            assert torch.equal(after[:, :, :cut], before[:, :, :cut])


@pytest.mark.parametrize(("name", "causal"), served())
def test_the_usual_layout_of_a_layer_gives_the_same_result(name: str, causal: bool) -> None:
    """(batch, seq_len, heads, head_dim), transposed."""
    inputs = [torch.randn(2, 300, 4, 8, dtype=torch.float64).transpose(1, 2) for _ in range(3)]
    attention = variants.create(name)
    plain = gradients(attention, *(x.contiguous() for x in inputs), causal=causal)
    for own, right in zip(gradients(attention, *inputs, causal=causal), plain, strict=True):
        torch.testing.assert_close(own, right)


def test_the_heads_of_one_sequence_are_views_in_any_layout() -> None:
    transposed = torch.zeros(2, 5, 4, 3).transpose(1, 2)
    for slab in slabs(transposed, transposed, 2):
        assert slab.queries(transposed)._base is not None
        assert slab.keys(transposed)._base is not None
