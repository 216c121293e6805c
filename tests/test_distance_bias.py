"""A bias by distance against torch SDPA with a mask from plain loops, and the properties of the
engine: positions of the bias slots, and memory that is linear in the length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

import variants
from bench.instruments import accuracy, memory
from variants.contract.pattern import Pattern
from variants.engines.libraries import cuda_sdpa
from variants.engines.primitives import head_slabs
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.tiled import relative_bias
from variants.engines.tiled.layouts.all_keys import AllKeys
from variants.engines.tiled.layouts.block_summaries import BlockSummaries
from variants.engines.tiled.layouts.key_blocks import KeyBlocks
from variants.engines.tiled.layouts.layout import Layout
from variants.engines.tiled.layouts.strided import Strided
from variants.engines.tiled.layouts.window import Window

CPU = torch.device("cpu")
Sees = Callable[[int, int, int], bool]
# From (position of the query, position of the key, number of keys) to whether the query sees the
# key.
KNOWN: dict[str, tuple[str, dict[str, Any], Sees]] = {
    "full": ("full", {}, lambda p, j, n: True),
    "plain": ("full", {"implementation": "plain"}, lambda p, j, n: True),
    "window": ("sliding_window", {"window_size": 6}, lambda p, j, n: abs(p - j) <= 6),
    "window 70": ("sliding_window", {"window_size": 70}, lambda p, j, n: abs(p - j) <= 70),
    "window of all": ("sliding_window", {"window_size": 1 << 40}, lambda p, j, n: True),
    "sinks": (
        "attention_sinks",
        {"window_size": 6, "num_sink_tokens": 3},
        lambda p, j, n: abs(p - j) <= 6 or j < 3,
    ),
    "longformer": (
        "longformer",
        {"window_size": 6, "num_global_tokens": 5},
        lambda p, j, n: abs(p - j) <= 6 or j < 5 or 0 <= p < 5,
    ),
    # There are as many slots of global keys as slots of the band in a causal tile.
    "as many global keys as rows": (
        "longformer",
        {"window_size": 0, "num_global_tokens": 64},
        lambda p, j, n: p == j or j < 64 or 0 <= p < 64,
    ),
    "bigbird": (
        "bigbird",
        {"block_size": 7, "num_random_blocks": 0, "num_global_blocks": 2},
        lambda p, j, n: (
            abs(p // 7 - j // 7) <= 1 or j < 7 or p < 7 or max(p, j) >= (n - 1) // 7 * 7
        ),
    ),
}
LENGTHS = [(1, 1), (150, 150), (40, 151), (1, 90)]


def tensors(query_len: int, key_len: int, kv_heads: int = 2) -> list[Tensor]:
    """Query, key, value and bias: three sequences, four heads, eight channels."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, query_len, 8), (3, kv_heads, key_len, 8), (3, kv_heads, key_len, 8)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in (*shapes, (4, query_len + key_len - 1))
    ]


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(("query_len", "key_len"), LENGTHS)
@pytest.mark.parametrize("known", list(KNOWN))
def test_output_and_gradients_are_those_of_sdpa_with_a_mask(
    known: str, query_len: int, key_len: int, causal: bool
) -> None:
    name, settings, sees = KNOWN[known]
    leaves = tensors(query_len, key_len)
    query, key, value, bias = leaves
    rows = []
    hidden = bias.new_full((4,), -torch.inf)
    for i in range(query_len):
        position = i + key_len - query_len
        for j in range(key_len):
            seen = sees(position, j, key_len) and not (causal and j > position)
            rows.append(bias[:, j - i + query_len - 1] if seen else hidden)
    mask = torch.stack(rows, dim=1).unflatten(1, (query_len, key_len))
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=mask.expand(3, -1, -1, -1), enable_gqa=True
    )
    attention = variants.create(name, **settings)
    found = attention(query, key, value, causal=causal, distance_bias=bias)
    assert_close(found, expected)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    mine = torch.autograd.grad(found, leaves, cotangent)
    for own, right in zip(mine, torch.autograd.grad(expected, leaves, cotangent), strict=True):
        assert_close(own, right)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("known", list(KNOWN))
def test_many_more_queries_than_keys(
    known: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last tile extends beyond the first keys by more rows than there are keys."""
    monkeypatch.setattr(head_slabs, "SCORES_CPU", 1 << 12)
    name, settings, _ = KNOWN[known]
    leaves = tensors(700, 9, kv_heads=4)
    query, key, value, bias = leaves
    attention = variants.create(name, **settings)
    call = {"causal": causal, "distance_bias": bias}
    found, expected = (
        (out, *torch.autograd.grad(out.square().sum(), leaves))
        for out in (
            attention(query, key, value, **call),
            attention.weights(query, key, **call) @ value,
        )
    )
    for own, right in zip(found, expected, strict=True):
        assert_close(own, right)


def test_the_bias_of_a_step_is_the_end_of_the_bias_of_the_whole_call() -> None:
    """The last rows of a causal call, with the entries that they read there."""
    query, key, value, bias = (x.detach() for x in tensors(90, 90))
    for name, settings, _ in KNOWN.values():
        attention = variants.create(name, **settings)
        whole = attention(query, key, value, causal=True, distance_bias=bias)
        last = attention(query[:, :, 87:], key, value, causal=True, distance_bias=bias[:, :92])
        assert_close(last, whole[:, :, 87:])


@pytest.mark.parametrize("chosen", list(cuda_sdpa.KERNELS))
def test_a_bias_is_computed_correctly_if_the_fastest_kernel_takes_no_bias(
    chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA `auto` is a kernel that takes no bias."""
    attention = variants.create("full")
    monkeypatch.setattr(type(attention), "choose_implementation", lambda *_: chosen)
    query, key, value, bias = tensors(9, 9, kv_heads=4)
    found = attention(query, key, value, distance_bias=bias)
    assert_close(found, attention.weights(query, key, distance_bias=bias) @ value)


@pytest.mark.parametrize("known", ["full", "window", "sinks", "longformer", "bigbird"])
def test_coarse_scores_with_a_bias_have_a_bounded_error(known: str) -> None:
    name, settings, _ = KNOWN[known]
    query, key, value, bias = (x.detach() for x in tensors(300, 300, kv_heads=4))
    right = variants.create(name, **settings).weights(query, key, distance_bias=bias) @ value
    query, key, value, bias = (x.float() for x in (query, key, value, bias))
    errors = []
    for implementation in ("auto", "coarse"):
        attention = variants.create(name, **settings, implementation=implementation)
        found = attention(query, key, value, distance_bias=bias).double()
        errors.append(float((found - right).norm() / right.norm()))
    exact, coarse = errors
    assert exact < accuracy.rounding("float32")
    assert 10 * exact < coarse < accuracy.rounding("float32", reduced_precision=True)


def drawn(heads: int, blocks: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-1, blocks, (heads, blocks, 2), generator=generator)


def layouts() -> dict[str, tuple[Layout, int, int]]:
    """For each kind: the layout, and the numbers of rows and keys in its list."""
    found: dict[str, tuple[Layout, int, int]] = {}
    for causal in (False, True):
        for query_len, key_len in ((200, 200), (90, 300), (300, 90)):
            shape = f"{query_len}, {key_len}" + ", causal" * causal
            first = max(0, query_len - key_len) if causal else 0
            ends = {"causal": causal, "device": CPU}
            window = Pattern(query_len, key_len, causal, 9, leading=3, trailing=2)
            blocks = Pattern(query_len, key_len, causal, 1, block_size=16, leading=16, trailing=4)
            blocks = Pattern(**{**vars(blocks), "random_blocks": drawn(4, -(-key_len // 16))})
            for name, layout in {
                "all": AllKeys(query_len, key_len, first, query_len, **ends),
                "all but the first": AllKeys(
                    query_len, key_len, first + 5 * causal, query_len, **ends, begin=5
                ),
                "window": Window.of(window, first, query_len),
                "blocks": KeyBlocks.of(blocks, first, query_len, 4, CPU),
            }.items():
                found[f"{name}, {shape}"] = layout, query_len, key_len
            strided = Strided(query_len, key_len, 4, first, query_len, **ends)
            found[f"strides, {shape}"] = strided, query_len, -(-key_len // 4)
            summarised = BlockSummaries(query_len, key_len, 8, first, causal=causal)
            found[f"summarised, {shape}"] = summarised, query_len, summarised.key_len
    return found


LAYOUTS = layouts()


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_bias_slots_are_in_the_order_of_the_gathered_keys(name: str) -> None:
    """The values of the bias are its own indices, and keys hold their positions. Four heads, two at
    a time."""
    layout, query_len, key_len = LAYOUTS[name]
    spare = layout.keys
    entries = query_len + key_len - 1 + 2 * spare
    bias = torch.arange(4 * entries, dtype=torch.float64).view(4, entries)
    zero = query_len - 1 + spare
    keys = torch.arange(key_len, dtype=torch.float64)[:, None]
    checked = 0
    for slab in (slice(0, 2), slice(6, 8)):
        own = torch.arange(slab.start, slab.stop) % 4
        for start in range(0, layout.tiles, 3 if layout.at_once > 1 else 1):
            steps = range(start, min(start + 3, layout.tiles))
            steps = steps if layout.at_once > 1 else range(start, start + 1)
            scratch = Scratch(CPU)
            whole = layout.whole_blocks(keys.expand(2, -1, -1))
            key = layout.gather(whole, steps, slab, "key", scratch)[..., 0]
            scores = torch.zeros(2, len(steps), layout.rows, key.shape[-1], dtype=torch.float64)
            layout.hide(scores, steps, slab, None)
            shown = scores > HIDDEN / 2
            scores.zero_()
            added = relative_bias.TileBias(bias, own, zero, scratch)
            added.add(scores, layout.key_runs(steps, slab, CPU))
            row = torch.arange(*layout.span(steps)).view(1, len(steps), layout.rows, 1)
            shown &= (row >= layout.first) & (row < layout.last)
            expected = key[:, :, None] - row + zero + own.view(2, 1, 1, 1) * entries
            assert torch.equal(scores[shown], expected[shown])
            checked += int(shown.sum())
            total = torch.zeros_like(bias)
            grads = shown.double()
            added.add_gradient(grads, layout.key_runs(steps, slab, CPU), total)
            counted = torch.bincount(expected[shown].long(), minlength=total.numel())
            assert torch.equal(total.flatten(), counted.double())
    assert checked


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4)])
def test_gradients_of_scores_are_summed_along_diagonals(rows: int, width: int) -> None:
    matrices = torch.randn(2, 3, rows, width, dtype=torch.float64)
    expected = torch.zeros(2, 3, rows + width - 1, dtype=torch.float64)
    for row in range(rows):
        for column in range(width):
            expected[..., column - row + rows - 1] += matrices[..., row, column]
    assert_close(relative_bias.diagonal_sums(matrices), expected)


@pytest.mark.parametrize(
    ("name", "length", "direction", "most"),
    [
        ("full", 4096, "forward", 0.7),
        ("full", 4096, "backward", 2.0),
        ("sliding_window", 16384, "forward", 0.5),
        ("longformer", 16384, "backward", 1.6),
        ("bigbird", 16384, "backward", 1.6),
    ],
)
def test_peak_memory_is_a_small_multiple_of_the_inputs(
    name: str, length: int, direction: str, most: float
) -> None:
    """A multiple of query, key, value and output together, at 8 heads of 64 channels. The output is
    0.25, and the gradients 0.75 more. All scores of one head would be 2 at 4096 tokens, and 8 at
    16384."""
    inputs = [torch.randn(1, 8, length, 64) for _ in range(3)]
    inputs.append(torch.randn(8, 2 * length - 1))
    attention = variants.create(name, **({"implementation": "plain"} if name == "full" else {}))
    for tensor in inputs:
        tensor.requires_grad_(direction == "backward")

    def call() -> object:
        out = attention(*inputs[:3], distance_bias=inputs[3])
        return torch.autograd.grad(out.sum(), inputs) if direction == "backward" else out

    attention.prepare(inputs[0], inputs[1], causal=False)
    unit = 4 * inputs[0].numel() * inputs[0].element_size()
    least = 0.25 if direction == "forward" else 1.0
    assert least <= memory.peak_bytes(call, CPU) / unit <= most
