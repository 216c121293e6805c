"""Sizes of tiles in kernels."""

from __future__ import annotations

LEAST_WIDTH = 16  # smallest operand of a product in Triton


def padded_width(channels: int) -> int:
    """The next power of two, at least `LEAST_WIDTH`."""
    return max(LEAST_WIDTH, 1 << (channels - 1).bit_length())
