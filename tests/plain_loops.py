"""Inputs and calls for tests that compare one method with its definition in plain loops."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 6

in_every_call = pytest.mark.parametrize(
    ("causal", "padded"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["all", "all-padded", "causal", "causal-padded"],
)


def tensors(
    query_len: int,
    key_len: int,
    *,
    batch: int = 2,
    heads: int = HEADS,
    kv_heads: int = KV_HEADS,
    head_dim: int = HEAD_DIM,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (heads, query_len), (kv_heads, key_len), (kv_heads, key_len)
    return tuple(
        torch.randn(batch, count, length, head_dim, generator=generator, dtype=torch.float64)
        for count, length in shapes
    )


def padding_of(key_len: int, holes: Iterable[int] = ()) -> Tensor:
    """By default, padding at single positions near both ends of the first sequence and in most of
    the later half of the second. No padding is at an end: `test_padding` tests how sequences are
    cut there."""
    mask = torch.zeros(2, key_len, dtype=torch.bool)
    mask[0, list(holes) or [1, 2, key_len - 3]] = True
    mask[1, key_len // 2 : -1] = True
    return mask
