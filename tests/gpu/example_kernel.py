"""Kernels for the tests of `compiled_kernels`."""

import triton
import triton.language as tl


@triton.jit
def square(source, target, row, WIDTH: tl.constexpr):
    """The product of a matrix with itself."""
    rows = tl.arange(0, WIDTH)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    tile = tl.load(source + rows * row + columns)
    tl.store(target + rows * row + columns, tl.dot(tile, tile).to(tile.dtype))


@triton.jit
def reassigned(target, LEVELS: tl.constexpr):
    """The interpreter runs this; the compiler refuses it."""
    for level in tl.static_range(1, LEVELS + 1):
        size: tl.constexpr = 16 >> level
        tl.store(target + tl.arange(0, size), 1.0)
