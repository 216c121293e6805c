"""The memory layouts of tensors that kernels can read."""

from __future__ import annotations

from torch import Tensor


def readable(tensor: Tensor) -> Tensor:
    """The tensor (..., rows, channels), or a contiguous copy if the channels are not contiguous or
    if rows or heads overlap. Expanded heads and sequences (stride 0) are not copied."""
    if tensor.is_contiguous():
        return tensor
    shape, strides = tensor.shape, tensor.stride()
    spread = [
        (stride, size)
        for place, (stride, size) in enumerate(zip(strides, shape, strict=True))
        if size > 1 and (stride or place >= tensor.ndim - 2)
    ]
    reach = 1
    for stride, size in sorted(spread):
        if stride < reach:
            return tensor.contiguous()
        reach = stride * size
    return tensor if shape[-1] == 1 or strides[-1] == 1 else tensor.contiguous()
