"""Sizes of tiles in kernels."""

from __future__ import annotations

import torch

LEAST_WIDTH = 16  # smallest operand of a product in Triton


def padded_width(channels: int) -> int:
    """The next power of two, at least `LEAST_WIDTH`."""
    return max(LEAST_WIDTH, 1 << (channels - 1).bit_length())


def tile_sizes(channels: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows of a tile and keys of a block for softmax kernels, so that the operands and sums of the
    backward pass fit shared memory (227 KiB on an H100)."""
    return (64, 64) if padded_width(channels) * dtype.itemsize <= 256 else (64, 32)
