"""A variant that returns the value of each token, for tests of the base class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.contract.answers import for_each_head
from variants import Attention
from variants.contract.call import Call
from variants.contract.info import Info


def describe(name: str, memory: str, capabilities: set[str]) -> Info:
    return Info(
        name=name,
        title="a variant of this file",
        year=2000,
        url="",
        time="n",
        memory=memory,
        target="other_kernel",
        supports=frozenset(capabilities),
        implementations=("plain",),
        exact_when=None,
        grid=({},),
    )


@dataclass(frozen=True)
class OwnValue(Attention):
    """Each row returns its own value. Supports no capability."""

    info = describe("own_value", "n", set())

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        return for_each_head(value, query.shape[1])

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        return torch.eye(key.shape[2], dtype=query.dtype)[rows].expand(*query.shape[:2], -1, -1)
