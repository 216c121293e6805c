"""Batched matrix products, and the dtypes of their operands and results."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.definitions import compute_dtype


class Precision(NamedTuple):
    """Dtypes of what is multiplied, and of the scores and sums that come out."""

    operands: torch.dtype
    scores: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, *, coarse: bool = False) -> Precision:
        """float32 scores for half inputs: a CPU widens the operands, a GPU multiplies them as they
        are. `coarse` keeps operands and scores in bfloat16; float64 stays as it is."""
        wide = compute_dtype(tensor.dtype)
        if coarse and tensor.dtype is not torch.float64:
            return cls(torch.bfloat16, torch.bfloat16)
        return cls(wide if tensor.device.type == "cpu" else tensor.dtype, wide)


def product(left: Tensor, right: Tensor, precision: Precision, out: Tensor) -> Tensor:
    """Batched product into `out`; all (..., rows, columns) with the same leading dimensions."""
    left, right, target = left.flatten(0, -3), right.flatten(0, -3), out.flatten(0, -3)
    if len(left) == 1 and precision.operands is precision.scores:
        # A batch of one may have any stride along it, which makes a CPU copy the matrix first.
        torch.mm(left[0], right[0], out=target[0])
    elif precision.operands is precision.scores:
        torch.bmm(left, right, out=target)
    else:
        target.copy_(torch.bmm(left, right, precision.scores))
    return out
