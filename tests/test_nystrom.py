"""Nyström attention, implemented a second time by loops over segments, rows and keys."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants
from tests.plain_loops import HEADS, padding_of, tensors
from variants import UnsupportedError


def segments(length: int, count: int) -> list[list[int]]:
    """`count` segments of tokens, or one segment for each token. The first segments are one token
    longer."""
    count = min(count, length)
    sizes = [length // count + (s < length % count) for s in range(count)]
    starts = [sum(sizes[:s]) for s in range(count)]
    return [list(range(a, a + size)) for a, size in zip(starts, sizes, strict=True)]


def softmax(query: Sequence[Tensor], key: Sequence[Tensor | None], scale: float) -> Tensor:
    """(queries, keys). A key that is None is hidden; a row is 0 if all keys are hidden."""
    made = torch.zeros(len(query), len(key), dtype=torch.float64)
    for i, row in enumerate(query):
        for j, other in enumerate(key):
            if other is not None:
                made[i, j] = math.exp(scale * float(row @ other))
        if made[i].any():
            made[i] /= made[i].sum()
    return made


def means(tokens: Sequence[Tensor | None], count: int) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for segment in segments(len(tokens), count):
        real = [tokens[t] for t in segment if tokens[t] is not None]
        found.append(sum(real) / len(real) if real else None)
    return found


def iterated(matrix: Tensor, steps: int) -> Tensor:
    """The paper's iteration for the pseudo-inverse."""
    if not matrix.any():
        return matrix.mT
    inverse = matrix.mT / (matrix.abs().sum(0).max() * matrix.abs().sum(1).max())
    eye = torch.eye(len(matrix), dtype=torch.float64)
    for _ in range(steps):
        az = matrix @ inverse
        inverse = inverse @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return inverse


def three_matrices(
    query: Tensor, key: Tensor, padding: Tensor, landmarks: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """F, A, B of one head: query (query_len, head_dim), key and padding (key_len, ...)."""
    queries = list(query)
    keys = [None if padding[j] else key[j] for j in range(len(key))]
    few_queries, few_keys = means(queries, landmarks), means(keys, landmarks)
    return (
        softmax(queries, few_keys, scale),
        softmax(few_queries, few_keys, scale),
        softmax(few_queries, keys, scale),
    )


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize(("query_len", "key_len"), [(26, 26), (9, 26), (26, 9), (1, 26), (3, 26)])
def test_nystrom_attention_is_the_product_of_three_matrices(
    query_len: int, key_len: int, steps: int, padded: bool
) -> None:
    attention = variants.create("nystrom", num_landmarks=4, num_iterations=steps)
    query, key, value = tensors(query_len, key_len)
    mask = (
        padding_of(key_len, [1, 2, key_len - 2, *segments(key_len, 4)[1]])
        if padded
        else torch.zeros(2, key_len, dtype=torch.bool)
    )
    weights = torch.stack(
        [
            torch.stack(
                [
                    f @ iterated(a, steps) @ b
                    for h in range(HEADS)
                    for f, a, b in [three_matrices(query[s, h], key[s, h // 2], mask[s], 4, 0.9)]
                ]
            )
            for s in range(2)
        ]
    )
    call = {"key_padding_mask": mask if padded else None, "scale": 0.9}
    assert_close(attention.weights(query, key, **call), weights)
    out = weights @ value.repeat_interleave(2, 1)
    assert_close(attention(query, key, value, **call), out)


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
def test_a_converged_iteration_gives_the_pseudo_inverse(padded: bool) -> None:
    """Rows of weights then sum to 1."""
    query, key, _ = tensors(40, 40)
    mask = (
        padding_of(40, [1, 2, 38, *segments(40, 4)[1]])
        if padded
        else torch.zeros(2, 40, dtype=torch.bool)
    )
    attention = variants.create("nystrom", num_landmarks=4, num_iterations=40)
    call = {"key_padding_mask": mask if padded else None, "scale": 3.0}
    found = attention.weights(query, key, **call)
    for s in range(2):
        for h in range(HEADS):
            f, a, b = three_matrices(query[s, h], key[s, h // 2], mask[s], 4, 3.0)
            assert_close(found[s, h], f @ torch.linalg.pinv(a) @ b, rtol=1e-6, atol=1e-8)
    assert_close(found.sum(-1), torch.ones(2, HEADS, 40, dtype=torch.float64))


def test_more_steps_are_closer_to_the_pseudo_inverse() -> None:
    query, key, _ = tensors(40, 40)
    none = torch.zeros(40, dtype=torch.bool)
    f, a, b = three_matrices(query[0, 0], key[0, 0], none, 8, 1.0)
    errors = []
    for steps in (2, 6, 8, 10, 12):
        attention = variants.create("nystrom", num_landmarks=8, num_iterations=steps)
        found = attention.weights(query, key, scale=1.0)[0, 0]
        errors.append(float((found - f @ torch.linalg.pinv(a) @ b).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1
    assert errors[-1] < 1e-8


def test_one_landmark_for_each_token_gives_softmax_attention() -> None:
    """As many landmarks as tokens are enough. One less is not, even if there are as many landmarks
    as queries."""
    query, key, value = tensors(20, 20)
    full = variants.create("full")(query, key, value)
    assert_close(variants.create("nystrom", num_landmarks=20)(query, key, value), full)
    for inputs in ((query, key, value), (query[:, :, :19], key, value)):
        found = variants.create("nystrom", num_landmarks=19)(*inputs)
        assert not torch.allclose(found, full[:, :, : inputs[0].shape[2]], rtol=1e-3)


def test_weights_may_be_negative() -> None:
    query, key, _ = tensors(40, 40)
    weights = variants.create("nystrom", num_landmarks=8).weights(query, key)
    assert bool((weights < -1e-4).any())


def test_a_causal_call_is_refused() -> None:
    query, key, value = (x[:, :2] for x in tensors(9, 9))
    with pytest.raises(UnsupportedError, match="nystrom does not support 'causal'"):
        variants.create("nystrom")(query, key, value, causal=True)
