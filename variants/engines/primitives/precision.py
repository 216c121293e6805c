"""Batched matrix products, and the dtypes of their operands and results."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.definitions import compute_dtype
from variants.contract.device import on_gpu


class Precision(NamedTuple):
    """Dtypes of the operands of products, and of the resulting scores and sums."""

    operands: torch.dtype
    scores: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, *, coarse: bool = False) -> Precision:
        """float32 scores for inputs in a half type: a CPU converts the operands to float32, a GPU
        does not. `coarse` keeps operands and scores in bfloat16, except for float64 inputs."""
        wide = compute_dtype(tensor.dtype)
        if coarse and tensor.dtype is not torch.float64:
            return cls(torch.bfloat16, torch.bfloat16)
        return cls(tensor.dtype if on_gpu(tensor.device) else wide, wide)

    def scales(self, scale: float) -> tuple[float, float]:
        """The factors on the query and on the scores. A query in a half type stays as it is: it
        would be rounded again, and this error is as large as the other errors together."""
        return (scale, 1.0) if self.operands is self.scores else (1.0, scale)


def product(left: Tensor, right: Tensor, precision: Precision, out: Tensor) -> Tensor:
    """Batched product into `out`; all (..., rows, columns) with the same leading dimensions."""
    left, right, target = left.flatten(0, -3), right.flatten(0, -3), out.flatten(0, -3)
    if len(left) == 1 and precision.operands is precision.scores:
        # A batch of one may have any batch stride, and then bmm copies the matrix on a CPU.
        torch.mm(left[0], right[0], out=target[0])
    elif precision.operands is precision.scores:
        torch.bmm(left, right, out=target)
    elif target.is_contiguous():
        torch.bmm(left, right, precision.scores, out=target)
    else:
        target.copy_(torch.bmm(left, right, precision.scores))
    return out
