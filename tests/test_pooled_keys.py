"""Block summaries, compressed keys and the hierarchy of means, each implemented a second time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.plain_loops import HEADS, in_every_call, padding_of, tensors

LENGTHS = [(46, 46), (9, 46), (46, 19), (1, 45)]

at_every_length = pytest.mark.parametrize(("query_len", "key_len"), LENGTHS)


Slots = Callable[[int, int, bool], list[list[int]]]
"""The tokens in each slot that a query can see: (position, key_len, causal)."""


def by_slots(
    query: Tensor, key: Tensor, value: Tensor, slots: Slots, causal: bool, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """A softmax over slots: each slot scores by its mean key, counts once for each of its tokens,
    and has its mean value. Returns weights of tokens, and outputs."""
    (_, _, query_len, _), key_len = query.shape, key.shape[2]
    weights = torch.zeros(2, HEADS, query_len, key_len, dtype=torch.float64)
    out = torch.zeros_like(query)
    hidden = mask.tolist()
    for i in range(query_len):
        seen = slots(i + key_len - query_len, key_len, causal)
        for b in range(2):
            found = [[j for j in tokens if not hidden[b][j]] for tokens in seen]
            found = [left for left in found if left]
            if not found:
                continue
            means = torch.zeros(len(found), key_len, dtype=torch.float64)  # of each slot's tokens
            for row, left in zip(means, found, strict=True):
                row[left] = 1 / len(left)
            counts = torch.tensor([len(left) for left in found])
            for h in range(HEADS):
                scores = means @ key[b, h // 2] @ query[b, h, i] / math.sqrt(6)
                shares = counts * scores.exp()
                weights[b, h, i] = shares / shares.sum() @ means
                out[b, h, i] = weights[b, h, i] @ value[b, h // 2]
    return weights, out


def assert_is(
    attention: variants.Attention,
    slots: Slots,
    query_len: int,
    key_len: int,
    causal: bool,
    padded: bool,
) -> None:
    inputs = tensors(query_len, key_len)
    mask = (
        padding_of(key_len, [1, 2, *range(8, 13)])
        if padded
        else torch.zeros(2, key_len, dtype=torch.bool)
    )
    weights, out = by_slots(*inputs, slots, causal, mask)
    call = {"causal": causal, "key_padding_mask": mask if padded else None}
    assert_close(attention.weights(*inputs[:2], **call), weights)
    assert_close(attention(*inputs, **call), out)


@in_every_call
@at_every_length
def test_block_summary_equals_its_definition(
    query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    size = 4

    def slots(position: int, key_len: int, causal: bool) -> list[list[int]]:
        own = math.floor(position / size)
        found = []
        for block in range(-(-key_len // size)):
            tokens = list(range(block * size, min(key_len, (block + 1) * size)))
            if abs(block - own) <= 1:
                found += [[j] for j in tokens if not causal or j <= position]
            elif not causal or block < own:
                found.append(tokens)
        return found

    attention = variants.create("block_summary", block_size=size)
    assert_is(attention, slots, query_len, key_len, causal, padded)


@in_every_call
@at_every_length
def test_compression_by_means_equals_its_definition(
    query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    size = 5

    def slots(position: int, key_len: int, causal: bool) -> list[list[int]]:
        blocks = [
            list(range(start, min(start + size, key_len))) for start in range(0, key_len, size)
        ]
        return [tokens for tokens in blocks if not causal or tokens[-1] <= position]

    attention = variants.create("compressed", block_size=size)
    assert_is(attention, slots, query_len, key_len, causal, padded)


@in_every_call
@at_every_length
@pytest.mark.parametrize("size", [2, 4, 6])
def test_hierarchical_equals_its_definition(
    query_len: int, key_len: int, causal: bool, padded: bool, size: int
) -> None:
    def level_of(position: int, token: int) -> int:
        level = 0
        while abs(token // (size << level) - math.floor(position / (size << level))) > 1:
            level += 1
        return level

    def slots(position: int, key_len: int, causal: bool) -> list[list[int]]:
        groups: dict[tuple[int, int], list[int]] = {}
        for token in range(key_len):
            if not causal or token <= position:
                level = level_of(position, token)
                groups.setdefault((level, token >> level), []).append(token)
        return list(groups.values())

    attention = variants.create("hierarchical", block_size=size)
    assert_is(attention, slots, query_len, key_len, causal, padded)


@in_every_call
@at_every_length
def test_compression_by_convolution_equals_its_definition(
    query_len: int, key_len: int, causal: bool, padded: bool
) -> None:
    size = 5
    attention = variants.create("compressed", block_size=size, compression="convolution")
    generator = torch.Generator().manual_seed(3)
    key_taps, value_taps = torch.randn(2, HEADS, size, generator=generator, dtype=torch.float64)
    query, key, value = tensors(query_len, key_len)
    mask = (
        padding_of(key_len, [1, 2, *range(8, 13)])
        if padded
        else torch.zeros(2, key_len, dtype=torch.bool)
    )
    out = torch.zeros_like(query)
    for b in range(2):
        for h in range(HEADS):
            for i in range(query_len):
                position = i + key_len - query_len
                found = []
                for start in range(0, key_len, size):
                    tokens = range(start, min(start + size, key_len))
                    left = [j for j in tokens if not mask[b, j]]
                    if not left or (causal and tokens[-1] > position):
                        continue
                    one = sum(key_taps[h, j - start] * key[b, h // 2, j] for j in left)
                    two = sum(value_taps[h, j - start] * value[b, h // 2, j] for j in left)
                    found.append((torch.exp(query[b, h, i] @ one / math.sqrt(6)), two))
                total = sum(weight for weight, _ in found)
                for weight, compressed in found:
                    out[b, h, i] += weight / total * compressed
    call = {
        "causal": causal,
        "key_padding_mask": mask if padded else None,
        "parameters": {"key_taps": key_taps, "value_taps": value_taps},
    }
    assert_close(attention(query, key, value, **call), out)
    weights = attention.weights(query, key, **call)
    shown = value.repeat_interleave(2, dim=1).masked_fill(mask[:, None, :, None], 0)
    assert_close(weights @ shown, out)


@pytest.mark.parametrize("name", ["block_summary", "hierarchical", "compressed"])
def test_a_query_of_zeros_gives_the_mean_of_all_values(name: str) -> None:
    """For slots of any size; 37 tokens leave an incomplete last block."""
    query, key, value = tensors(37, 37)
    attention = variants.create(name, block_size=4)
    right = value.mean(2, keepdim=True).repeat_interleave(2, dim=1).expand_as(query)
    assert_close(attention(torch.zeros_like(query), key, value), right)


@pytest.mark.parametrize("name", ["block_summary", "hierarchical"])
def test_with_equal_keys_in_each_block_the_result_is_exact(name: str) -> None:
    """If all keys of a block are equal, their mean is exact."""
    query, key, value = tensors(128, 128)
    key = key[:, :, ::16].repeat_interleave(16, dim=2)
    attention = variants.create(name, block_size=16)
    right = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert_close(attention(query, key, value), right)


def test_an_odd_block_has_no_halves() -> None:
    with pytest.raises(ValueError, match="hierarchical: block_size must be a multiple of 2; got 7"):
        variants.create("hierarchical", block_size=7)


def test_the_number_of_far_keys_grows_with_the_logarithm_of_the_length() -> None:
    attention = variants.create("hierarchical", block_size=16)

    def per_query(length: int) -> float:
        flops = attention.useful_flops(1, 1, length, length, 64, causal=False)
        assert flops is not None
        return flops / length

    steps = [per_query(2 << k) - per_query(1 << k) for k in range(12, 18)]
    assert max(steps) < 1.1 * min(steps)


def test_a_block_longer_than_the_sequence_contains_all_tokens() -> None:
    """No tensor has the size of such a block."""
    query, key, value = tensors(20, 20)
    attention = variants.create("compressed", block_size=1 << 40)
    right = value.mean(2, keepdim=True).repeat_interleave(2, dim=1).expand_as(query)
    assert_close(attention(query, key, value), right)
    assert_close(attention.weights(query, key), torch.full((2, HEADS, 20, 20), 1 / 20).double())
