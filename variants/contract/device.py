"""The only place that decides whether tensors are on a GPU, and whether Triton can run there.

`pretended_gpu` makes all code treat another kind of device as a GPU: fake tensors on `meta`, to
count the work of a call without a GPU, and CPU tensors, to test Triton kernels in Triton's
interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

WIDEST_BYTES = 512  # of one row of an operand of a Triton kernel

_gpus = {"cuda"}


def on_gpu(device: torch.device) -> bool:
    """Whether kernels use their GPU code for tensors on this device."""
    return device.type in _gpus


@contextmanager
def pretended_gpu(device_type: str) -> Iterator[None]:
    """Treat devices of this type as a GPU, in the whole process. For tests and simulations."""
    added = device_type not in _gpus
    _gpus.add(device_type)
    try:
        yield
    finally:
        if added:
            _gpus.remove(device_type)


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, which reads CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_takes(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether tiles with so many channels fit the registers and the shared memory of a GPU. Triton
    kernels have no float64."""
    return dtype is not torch.float64 and head_dim * dtype.itemsize <= WIDEST_BYTES


def triton_unavailable(device: torch.device) -> str | None:
    """The reason why Triton kernels cannot run on this device; None if they can."""
    if device.type == "cpu" and not interpreted():
        return "Triton kernels run on CUDA only"
    if device.type not in ("cpu", "cuda") and not on_gpu(device):
        return f"Triton kernels run on CUDA only; got a tensor on {device.type}"
    return None if device.type == "meta" else _missing(device.type)


@cache
def _missing(device_type: str) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        import triton.language  # noqa: F401
    except Exception as error:  # the import searches for drivers and compilers
        return f"Triton cannot be imported ({' '.join(str(error).split())[:300]})"
    # Triton builds the launcher of each kernel.
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang")), "gcc")
    if device_type == "cuda" and not shutil.which(compiler.split()[0]):
        return (
            f"Triton compiles kernels when they are called, and there is no C compiler {compiler}"
        )
    return None
