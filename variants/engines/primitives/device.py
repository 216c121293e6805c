"""The only place where engines ask whether tensors are on a GPU.

`pretended_gpu` makes the engines treat another kind of device as a GPU: fake tensors on `meta`, to
count the work of a call without a GPU, and CPU tensors, to test Triton kernels in Triton's
interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_gpus = {"cuda"}


def on_gpu(device: torch.device) -> bool:
    """Whether engines use their GPU code for tensors on this device."""
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
