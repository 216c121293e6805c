"""Shapes of the tensors in the contract, and the calls that a variant supports at each shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.attentions import attentions, supports
from variants import Attention

HALF = (torch.float16, torch.bfloat16)
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@dataclass(frozen=True)
class Shape:
    batch: int
    heads: int
    kv_heads: int
    query_len: int
    key_len: int
    head_dim: int = 8
    scale: float | None = None

    def tensors(
        self, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        query_shape = (self.batch, self.heads, self.query_len, self.head_dim)
        key_shape = (self.batch, self.kv_heads, self.key_len, self.head_dim)
        return tuple(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
            for shape in (query_shape, key_shape, key_shape)
        )

    def padding(self, device: str = "cpu") -> Tensor:
        """The first sequence has padding in several places, the first key included. The second
        sequence is all padding."""
        generator = torch.Generator().manual_seed(1)
        mask = torch.rand(self.batch, self.key_len, generator=generator) < 0.3
        mask[:, 0] = self.key_len > 1
        mask[:, -1] = False
        mask[1:2] = True
        return mask.to(device)

    def distance_bias(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
        """Biases as large as scores, different for each head and distance."""
        generator = torch.Generator().manual_seed(3)
        shape = (self.heads, self.query_len + self.key_len - 1)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


SHAPES = {
    "one token": Shape(2, 2, 2, 1, 1),
    "odd length, grouped heads": Shape(3, 4, 2, 37, 37, head_dim=6),
    "long, explicit scale": Shape(1, 2, 2, 300, 300, scale=0.3),
    "more keys than queries": Shape(2, 4, 2, 30, 37),
    "more queries than keys": Shape(2, 2, 1, 40, 9, scale=0.5),
    "one query of many keys": Shape(2, 2, 2, 1, 37),
}
ODD = SHAPES["odd length, grouped heads"]
SQUARE = Shape(2, 2, 2, 150, 150)


def calls(attention: Attention, shape: Shape) -> list[dict[str, Any]]:
    """The argument combinations that the variant supports at this shape; an empty list if it does
    not support the shape."""
    if shape.query_len != shape.key_len and not supports("cross_attention")(attention):
        return []
    return [
        {"causal": causal, "key_padding_mask": shape.padding() if padded else None}
        for causal in attention.info.causal_choices
        for padded in (False, True)
        if not padded or supports("key_padding_mask")(attention)
    ]


def attentions_and_shapes(shapes: Sequence[str]) -> list[Any]:
    return [
        pytest.param(attention.values[0], SHAPES[name], id=f"{attention.id}-{name}")
        for attention in attentions()
        for name in shapes
        if calls(attention.values[0], SHAPES[name])
    ]


def may_see(shape: Shape, call: dict[str, Any]) -> Tensor:
    """Bool (batch, 1, query_len, key_len): the keys that causality and padding allow, from the
    definition of positions."""
    allowed = torch.ones(shape.batch, 1, shape.query_len, shape.key_len, dtype=torch.bool)
    if call["causal"]:
        for row in range(shape.query_len):
            allowed[:, :, row, max(0, row + shape.key_len - shape.query_len + 1) :] = False
    if call["key_padding_mask"] is not None:
        allowed &= ~call["key_padding_mask"][:, None, None, :]
    return allowed
