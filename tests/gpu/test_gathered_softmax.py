"""Fused softmax over selected keys (lsh and block_top_k), against the dense definitions and the
engine of a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import variants
from variants.contract.call import Call
from variants.contract.device import pretended_gpu
from variants.engines.gpu.selected import block_selection, gathered_softmax, hashed_ranges
from variants.engines.rounds import block_choice, lsh_hash
from variants.engines.rounds.lsh_sort import Ranks

pytestmark = pytest.mark.interpreted

# batch, heads, kv_heads, query_len, key_len, head_dim
SELF, LONGER, SHORTER = (2, 2, 1, 45, 45, 16), (1, 4, 2, 30, 90, 24), (1, 2, 2, 90, 50, 8)
LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3}


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    batch, heads, kv_heads, query_len, key_len, head_dim = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = (heads, query_len), (kv_heads, key_len), (kv_heads, key_len)
    return [
        torch.randn(batch, count, length, head_dim, generator=generator).to(dtype)
        for count, length in sizes
    ]


def padding_of(shape: tuple[int, ...]) -> Tensor:
    """Padding after one sequence, and a hole in each sequence, which is hidden in the kernel."""
    padding = torch.zeros(shape[0], shape[4], dtype=torch.bool)
    padding[0, -9:] = True
    padding[:, 12:19] = True
    return padding


def assert_near(found: Tensor, expected: Tensor, limit: float) -> None:
    assert bool(found.isfinite().all())
    assert float((found.detach().double() - expected).norm() / expected.norm()) < limit


def compare(
    text: str,
    shape: tuple[int, ...],
    causal: bool,
    dtype: torch.dtype = torch.float32,
    padding: Tensor | None = None,
    shared: bool = False,
) -> None:
    attention = variants.parse(f"{text} implementation=triton")
    query, key, value = drawn(shape, dtype)
    if shared:
        key = query.clone()
    leaves = [x.requires_grad_() for x in (query, key, value)]
    call: dict[str, Any] = {"causal": causal, "key_padding_mask": padding}
    with pretended_gpu("cpu"):
        out = attention(*leaves, **call)
        cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        grads = torch.autograd.grad(out, leaves, cotangent)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    values = wide[2].repeat_interleave(shape[1] // shape[2], dim=1)
    if padding is not None:
        values = values.masked_fill(padding[:, None, :, None], 0)
    expected = attention.weights(*wide[:2], **call) @ values
    right = torch.autograd.grad(expected, wide, cotangent.double())
    assert_near(out, expected.detach(), LIMITS[dtype])
    for mine, theirs in zip(grads, right, strict=True):
        assert_near(mine, theirs, 2 * LIMITS[dtype])


TEXTS = (
    "lsh bucket_size=8 num_hashes=1",
    "lsh bucket_size=6 num_hashes=2",
    "block_top_k block_size=6 top_k=1",
    "block_top_k block_size=5 top_k=3",
)


@pytest.mark.parametrize(
    ("padded", "causal"), [(True, False), (True, True)], ids=["padded-all", "padded-causal"]
)
@pytest.mark.parametrize("text", TEXTS)
def test_grouped_heads(text: str, padded: bool, causal: bool) -> None:
    compare(text, SELF, causal, padding=padding_of(SELF) if padded else None)


@pytest.mark.parametrize("shape", [LONGER, SHORTER], ids=["longer", "shorter"])
@pytest.mark.parametrize("text", TEXTS)
def test_other_lengths_in_float16(text: str, shape: tuple[int, ...]) -> None:
    compare(text, shape, True, torch.float16)


@pytest.mark.parametrize("text", TEXTS)
def test_queries_before_the_first_key_of_a_call_that_is_not_causal(text: str) -> None:
    compare(text, SHORTER, False)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("hashes", [1, 2])
def test_a_token_does_not_see_itself_if_queries_are_keys(hashes: int, causal: bool) -> None:
    """With small buckets some rows see no key, and get the value at their own position."""
    shape = 2, 2, 2, 45, 45, 16
    text = f"lsh bucket_size=2 num_hashes={hashes} shared_qk=True"
    query = drawn(shape, torch.float32)[0]
    weights = variants.parse(text).weights(query, query, causal=causal)
    assert bool((weights.diagonal(dim1=-2, dim2=-1) == 1)[..., 1:].any()) == causal
    compare(text, shape, causal, padding=padding_of(shape), shared=True)


@pytest.mark.parametrize("text", [TEXTS[1], TEXTS[3]])
def test_shares_of_rounds_are_held_for_some_heads_at_a_time(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathered_softmax, "SHARES", 1)
    compare(text, SELF, True)


@pytest.mark.parametrize(
    ("padded", "causal"), [(False, False), (True, True)], ids=["whole-all", "padded-causal"]
)
@pytest.mark.parametrize(("size", "count", "scale"), [(4, 3, 0.7), (4, 4, -0.7), (2, 7, 0.0)])
def test_the_chosen_blocks_are_those_of_the_definition(
    size: int, count: int, scale: float, padded: bool, causal: bool
) -> None:
    """Inputs with few different numbers and repeated keys have many equal scores. Every block has
    1, 2 or 4 tokens, so that their means are exact."""
    query, key, _ = drawn((2, 2, 1, 76, 76, 8), torch.float32)
    padding = None
    if padded:
        padding = torch.zeros(2, 76, dtype=torch.bool)
        padding[0, 68:] = True
        padding[:, 12:18] = True
        key = key.masked_fill(padding[:, None, :, None], 0)
    positions = torch.arange(76)
    call = Call(scale=scale, causal=causal, key_padding_mask=padding)
    for q, k in ((query, key), (query.round(), (key * 2).round() / 2)):
        k[:, :, 40:52] = k[:, :, :12]
        settings = {"size": size, "count": count}
        found = block_selection.best_blocks(q, positions, k, call, **settings)
        expected = block_choice.best_blocks(q, positions, k, call, **settings)
        assert torch.equal(found[:, :, 0].long(), expected[:, :, 0])
        assert torch.equal(found.long().sort(2).values, expected.sort(2).values)


def test_close_scores_are_decided_in_float64() -> None:
    """Blocks that differ by less than the rounding error of a float32 product."""
    query, key, _ = drawn((1, 1, 1, 64, 64, 16), torch.float32)
    key = key[:, :, :1] + 1e-7 * key
    call = Call(scale=1.0, causal=False)
    found = block_selection.best_blocks(query, torch.arange(64), key, call, size=2, count=5)
    expected = block_choice.best_blocks(query, torch.arange(64), key, call, size=2, count=5)
    assert torch.equal(found.long().sort(2).values, expected.sort(2).values)


@pytest.mark.parametrize("factors", [(), (1,), (3,), (3, 2), (5, 5)], ids=str)
def test_buckets_are_those_of_the_definition(factors: tuple[int, ...]) -> None:
    rows = drawn((2, 4, 2, 1, 70, 20), torch.float16)[1]
    generator = torch.Generator().manual_seed(3)
    rotations = tuple(
        torch.randn(4, 3, 20, 2 ** (bits - 1), generator=generator) for bits in factors
    )
    expected = lsh_hash.hashed(rows, rotations, 4, 3)
    beside = torch.cat([torch.empty(4, 3, 20, 0), *rotations], -1)
    found = hashed_ranges.hashed(rows, beside, sum(factors), len(factors))
    assert torch.equal(found.long(), expected)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(("query_len", "key_len"), [(40, 40), (15, 40), (40, 15)])
def test_the_keys_of_a_query_are_those_of_its_chunks(
    query_len: int, key_len: int, causal: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    buckets = [
        torch.randint(0, 5, (2, 2, 3, length), generator=generator, dtype=torch.int32)
        for length in (query_len, key_len)
    ]
    hidden = torch.rand(2, key_len, generator=generator) < 0.3
    listed = hashed_ranges.ranges(*buckets, hidden, buckets=5, chunk=4, causal=causal)
    order = listed.order.view(4, -1) % (3 * query_len)
    assert listed.place is not None
    place = listed.place.view(4, -1) % key_len
    seen = torch.zeros(4, 3, query_len, key_len, dtype=torch.bool)
    for head in range(4):
        ranges = zip(listed.low[head].tolist(), listed.high[head].tolist(), strict=True)
        for item, (low, high) in zip(order[head].tolist(), ranges, strict=True):
            turn, row = divmod(item, query_len)
            assert low == high or low // key_len == (high - 1) // key_len == turn
            seen[head, turn, row, place[head, low:high]] = True
        assert int(listed.low[head].diff().min()) >= 0
        assert int(listed.high[head].diff().min()) >= 0
    later = torch.arange(key_len) > torch.arange(query_len)[:, None] + key_len - query_len
    for turn in range(3):
        query_buckets, key_buckets = (x[:, :, turn].flatten(0, 1).long() for x in buckets)
        ranks = Ranks.of(query_buckets, key_buckets, hidden.repeat_interleave(2, 0), causal=causal)
        back = ranks.query_rank[..., None] // 4 - ranks.key_rank[:, None] // 4
        right = (ranks.query_segment[..., None] == ranks.key_segment[:, None]) & (back >= 0)
        right &= back <= 1
        found = seen[:, turn]
        if causal:  # the kernel hides later keys again
            right, found = right & ~later, found & ~later
        assert torch.equal(found, right)
