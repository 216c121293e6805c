"""Fake linear attention: exact attention that declares linear costs, for tests of reports."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from variants import Attention
from variants.contract.call import Call
from variants.contract.registry import register

BLOCK = 128


@register(
    title="Fake linear attention",
    year=2000,
    url="",
    time="n·d²",
    memory="n·d",
    target="softmax",
    supports=set(),
    implementations=("plain",),
)
@dataclass(frozen=True)
class FakeLinear(Attention):
    """Computes all scores in blocks and holds them until the end.

    Costs: n tokens, d = head_dim.
    """

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        rows = query.split(BLOCK, dim=2)
        held = [torch.softmax(one @ key.mT * call.scale, -1) for one in rows]
        return torch.cat([weights @ value for weights in held], 2)

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        return torch.softmax(query[:, :, rows] @ key.mT * call.scale, -1)
