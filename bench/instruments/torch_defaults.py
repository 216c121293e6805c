"""Torch's default route of float32 products, in a process that has chosen the fast one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from variants.engines.primitives import float32_route


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Compute float32 products on torch's default route in the `with` block.

    This is a setting of the process: no other thread may compute during the block.
    """
    chosen = float32_route.present()
    if chosen == "default":
        yield
        return
    float32_route.take("default")
    try:
        yield
    finally:
        float32_route.take(chosen)
