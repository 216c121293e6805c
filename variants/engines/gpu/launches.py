"""Starts Triton kernels, and registers them as torch operations.

Each launch of a Triton kernel is an operation of the library `variants_gpu`. So fake tensors have
the right shapes, and a count of operations counts the kernel once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from variants.contract.checks import UnsupportedError
from variants.contract.device import interpreted, on_gpu, triton_takes
from variants.contract.device import triton_unavailable as unavailable

__all__ = ["interpreted", "launch", "operation", "preferred", "unavailable"]

MOST_PROGRAMS = 65535  # CUDA's limit on all axes of a grid but the first

_library = torch.library.Library("variants_gpu", "FRAGMENT")


def preferred(query: Tensor) -> bool:
    """Whether a call without another choice uses the softmax kernels in Triton."""
    if not (on_gpu(query.device) and triton_takes(query.shape[-1], query.dtype)):
        return False
    return unavailable(query.device) is None


def operation(
    schema: str, shapes: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that launches exactly one kernel, and return the operation.

    Args:
        schema: name, arguments and results, as `torch.library.Library.define` reads them.
        shapes: gets the same arguments, and returns empty tensors like the results. Fake tensors
            use it.
    """
    name = schema.split("(")[0]

    def register(launch: Callable[..., Any]) -> Callable[..., Any]:
        _library.define(schema)
        _library.impl(name, launch, "CPU")
        _library.impl(name, launch, "CUDA")
        torch.library.register_fake(f"variants_gpu::{name}", shapes, lib=_library)
        found: Callable[..., Any] = getattr(torch.ops.variants_gpu, name)
        return found

    return register


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int = 4,
    num_stages: int = 2,
    **constants: Any,
) -> None:
    """Start a Triton kernel on `grid` programs. Every launch uses this function, so that a test can
    record the launches and compile the kernels without a GPU.

    Args:
        arguments: tensors and numbers, in the order of the kernel's parameters.
        constants: the parameters that are `tl.constexpr`.
    """
    if max(grid[1:], default=0) > MOST_PROGRAMS:
        raise UnsupportedError(
            f"Triton kernels take at most {MOST_PROGRAMS} heads of all sequences together; "
            f"got {max(grid[1:])}"
        )
    place = next(one.device for one in arguments if isinstance(one, Tensor))
    # Triton starts kernels on the current device.
    with torch.cuda.device(place) if place.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants, num_warps=num_warps, num_stages=num_stages)
