"""Measuring torch as it comes, in a process that has chosen the fast route of float32 products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from variants.engines.primitives import float32_route


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Float32 products take torch's default route meanwhile.

    This is a setting of the process: no other thread may compute meanwhile.
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
