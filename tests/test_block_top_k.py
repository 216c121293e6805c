"""Block top-k attention against its definition in plain loops, and the properties of its block
choice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from tests import plain_loops
from variants import Attention
from variants.contract.call import Call
from variants.engines.primitives.softmax_tile import Scratch
from variants.engines.rounds import block_choice, merge_rounds


def tensors(
    batch: int,
    heads: int,
    kv_heads: int,
    query_len: int,
    key_len: int,
    head_dim: int = 4,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    return plain_loops.tensors(query_len, key_len, seed=seed, **sizes)


def single(number: float) -> float:
    return float(torch.tensor(number, dtype=torch.float64).float())


def blocks_by_hand(
    query: list[float],
    keys: list[list[float]],
    padded: list[bool],
    position: int,
    size: int,
    count: int,
    causal: bool,
    sign: int,
) -> set[int]:
    """The blocks that one query sees."""
    scores = {}
    for start in range(0, len(keys), size):
        shown = [keys[j] for j in range(start, min(start + size, len(keys))) if not padded[j]]
        if shown and (not causal or start + size <= position):
            mean = [sum(channel) / len(shown) for channel in zip(*shown, strict=True)]
            product = sum(q * m for q, m in zip(query, mean, strict=True))
            scores[start // size] = single(sign * product)
    own = {position // size} if position >= 0 else set()
    others = sorted((number for number in scores if number not in own), key=lambda b: -scores[b])
    return own | set(others[: count - len(own)])


def weights_by_hand(
    query: Tensor, key: Tensor, padding: Tensor, attention: Any, causal: bool, scale: float
) -> tuple[Tensor, int]:
    """All weights, and the number of pairs of a query and a visible block other than its own."""
    batch, heads, query_len, _ = query.shape
    key_len, group = key.shape[2], heads // key.shape[1]
    weights = torch.zeros(batch, heads, query_len, key_len, dtype=torch.float64)
    others = 0
    for b in range(batch):
        padded = padding[b].tolist()
        for h in range(heads):
            keys = key[b, h // group].float().tolist()
            products = (query[b, h] @ key[b, h // group].T).tolist()
            for i in range(query_len):
                position = i + key_len - query_len
                chosen = blocks_by_hand(
                    query[b, h, i].float().tolist(),
                    keys,
                    padded,
                    position,
                    attention.block_size,
                    attention.top_k,
                    causal,
                    int(math.copysign(scale != 0, scale)),
                )
                others += len(chosen - {position // attention.block_size})
                exponents = {
                    j: scale * products[i][j]
                    for j in range(key_len)
                    if j // attention.block_size in chosen
                    and not padded[j]
                    and (not causal or j <= position)
                }
                highest = max(exponents.values(), default=0.0)
                kernel = {j: math.exp(one - highest) for j, one in exponents.items()}
                for j, one in kernel.items():
                    weights[b, h, i, j] = one / sum(kernel.values())
    return weights, others


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(
    ("query_len", "key_len"), [(45, 45), (20, 45), (45, 20)], ids=["self", "longer", "shorter"]
)
@pytest.mark.parametrize(
    ("size", "count", "scale"), [(6, 3, 0.7), (1, 2, 0.7), (5, 1, 0.7), (6, 3, -0.7), (6, 3, 0.0)]
)
def test_equals_the_definition_in_plain_loops(
    size: int, count: int, scale: float, query_len: int, key_len: int, padded: bool, causal: bool
) -> None:
    query, key, value = tensors(2, 4, 2, query_len, key_len)
    padding = torch.zeros(2, key_len, dtype=torch.bool)
    if padded:
        padding[0, 6:13] = True
        padding[0, -3:-1] = True
        padding[1, 1] = True
    attention = variants.create("block_top_k", block_size=size, top_k=count)
    expected, others = weights_by_hand(query, key, padding, attention, causal, scale)
    assert (others > 0) == (count > 1 or (query_len > key_len and not causal))
    call: dict[str, Any] = {"causal": causal, "scale": scale}
    if padded:
        call["key_padding_mask"] = padding
    torch.testing.assert_close(attention.weights(query, key, **call), expected)
    torch.testing.assert_close(
        attention(query, key, value, **call), expected @ value.repeat_interleave(2, dim=1)
    )


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_gradients_are_those_of_the_definition_in_plain_loops(causal: bool) -> None:
    """The gradients of softmax over the chosen keys, with the choice held fixed."""
    inputs = tensors(1, 4, 2, 31, 40)
    attention = variants.create("block_top_k", block_size=6, top_k=3)
    none = torch.zeros(1, 40, dtype=torch.bool)
    seen = weights_by_hand(*inputs[:2], none, attention, causal, 0.5)[0] > 0
    leaves = [x.requires_grad_() for x in inputs]
    query, key, value = leaves[0], *(x.repeat_interleave(2, dim=1) for x in leaves[1:])
    scores = (0.5 * query @ key.mT).masked_fill(~seen, -math.inf)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(query.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(scores.softmax(-1) @ value, leaves, cotangent)
    found = torch.autograd.grad(attention(*leaves, causal=causal, scale=0.5), leaves, cotangent)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right)


def test_on_equal_scores_the_block_with_the_lower_index_is_chosen() -> None:
    """All blocks have equal scores for a query of zeros, and also if every block has the same
    keys."""
    attention = variants.create("block_top_k", block_size=4, top_k=3)
    query, key, _ = tensors(1, 1, 1, 32, 32)
    repeated = key[:, :, :4].repeat(1, 1, 8, 1)
    for q, k in ((torch.zeros_like(query), key), (query, repeated)):
        seen = attention.weights(q, k)[0, 0] > 0
        blocks = seen.view(32, 8, 4).all(-1)
        for row, found in enumerate(blocks):
            own = row // 4
            expected = sorted({own, *[b for b in range(8) if b != own][:2]})
            assert found.nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_choice_equals_the_choice_of_the_same_values_in_float64(dtype: torch.dtype) -> None:
    """Queries and keys have few different values, so many scores are almost equal."""
    inputs = [x.mul(2).round().div(2).to(dtype) for x in tensors(1, 2, 1, 300, 300, 8)]
    attention = variants.create("block_top_k", block_size=5, top_k=4)
    for causal in (False, True):
        wide = attention.weights(inputs[0].double(), inputs[1].double(), causal=causal)
        own = attention.weights(*inputs[:2], causal=causal)
        assert torch.equal(own > 0, wide > 0)
        indicator = torch.eye(300, dtype=dtype)[None, None, :, :8]
        found = attention(*inputs[:2], indicator.contiguous(), causal=causal)
        assert torch.equal(found > 0, wide[..., :8] > 0)


def test_each_query_has_its_own_choice() -> None:
    """The choice is not pooled over the queries of a block, nor over heads."""
    attention = variants.create("block_top_k", block_size=4, top_k=2)
    query, key, _ = tensors(1, 4, 2, 64, 64)
    blocks = (attention.weights(query, key) > 0).view(4, 16, 4, 16, 4).any(-1)
    assert bool((blocks[:, :, :1] != blocks).any())
    assert bool((blocks[0] != blocks[1]).any())


@pytest.mark.parametrize(
    ("size", "count", "length", "head_dim"),
    [(4, 3, 20, 64), (8, 2, 20, 32), (8, 2, 130, 16), (64, 3, 300, 64)],
)
def test_later_tokens_change_no_earlier_row_not_even_by_rounding(
    size: int, count: int, length: int, head_dim: int
) -> None:
    """The choices of later rows change the number of tiles in a batched product."""
    attention = variants.create("block_top_k", block_size=size, top_k=count)
    shape = 1, 1, 1, length, length, head_dim
    for seed in range(20):
        inputs = [x.float() for x in tensors(*shape, seed)]
        others = [x.float() * 30 for x in tensors(*shape, seed + 50)]
        before = attention(*inputs, causal=True)
        for cut in range(size + 1, length, 1 + length // 8):
            late = [
                torch.cat([x[:, :, :cut], y[:, :, cut:]], 2)
                for x, y in zip(inputs, others, strict=True)
            ]
            after = attention(*late, causal=True)
            assert torch.equal(after[:, :, :cut], before[:, :, :cut])
            assert not torch.equal(after, before)


def test_the_highest_scores_are_found_in_order_until_none_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (2, 9, 50), generator=generator).float()
    scores[:, :, 7] = -math.inf
    scores[:, 2:, 8] = -math.inf
    chosen = torch.empty(2, 4, 50, dtype=torch.int64)
    block_choice._highest(scores.clone(), chosen, Scratch(torch.device("cpu")))
    order = scores.sort(dim=1, descending=True, stable=True)
    expected = order.indices.masked_fill(order.values == -math.inf, -1)[:, :4]
    assert torch.equal(chosen, expected)
    assert (chosen[:, :, 8] == -1).sum() == 4
    block_choice._highest(
        torch.full((1, 3, 2), math.nan), chosen[:1, :2, :2], Scratch(chosen.device)
    )
    assert bool((chosen[:1, :2, :2] < 3).all())


@pytest.mark.parametrize("causal", [False, True])
def test_with_at_least_as_many_blocks_as_exist_it_is_full_attention(causal: bool) -> None:
    inputs = tensors(1, 2, 2, 50, 40)
    full = variants.create("full")
    for count in (7, 8, 100):
        attention: Attention = variants.create("block_top_k", block_size=6, top_k=count)
        torch.testing.assert_close(attention(*inputs, causal=causal), full(*inputs, causal=causal))
        torch.testing.assert_close(
            attention.weights(*inputs[:2], causal=causal), full.weights(*inputs[:2], causal=causal)
        )


@pytest.mark.parametrize(("query_len", "key_len"), [(40, 40), (11, 40), (60, 40)])
@pytest.mark.parametrize("causal", [False, True])
def test_operations_are_those_of_the_visible_pairs_and_of_the_scored_blocks(
    query_len: int, key_len: int, causal: bool
) -> None:
    attention = variants.create("block_top_k", block_size=8, top_k=3)
    zeros = [torch.zeros(1, 1, length, 2, dtype=torch.float64) for length in (query_len, key_len)]
    pairs = int((attention.weights(*zeros, causal=causal) > 0).sum())
    positions = [i + key_len - query_len for i in range(query_len)]
    scored = sum(max(0, p // 8) if causal else 5 for p in positions)
    found = attention.useful_flops(2, 3, query_len, key_len, 16, causal=causal)
    assert found == 2 * 3 * 16 * (4 * pairs + 2 * scored)


def test_every_round_has_few_tiles() -> None:
    """The queries of a block share tiles; there is not one tile for each query."""
    query, key, _ = tensors(1, 2, 1, 1024, 1024, 16)
    positions = torch.arange(1024)
    call: dict[str, Any] = {"causal": False, "key_padding_mask": None}
    chosen = block_choice.best_blocks(
        query, positions, key, Call(scale=1.0, **call), size=64, count=3
    )
    turns: merge_rounds.Rounds = block_choice.ChosenRounds(chosen, 1024, 64, **call)
    assert len(turns) == 3
    for turn in range(3):
        tiles = turns[turn].tiles
        assert 2048 // 64 <= len(tiles.rows) <= 2048 // 64 + 32
        assert sorted(tiles.rows[tiles.rows >= 0].tolist()) == list(range(2048))
