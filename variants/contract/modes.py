"""What torch's modes may do to a kernel: nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def autocasts(device: torch.device) -> bool:
    """Whether torch chooses dtypes on this device now; on some, such as meta, it never does."""
    # torch 2.10 and 2.11 do not compile the question; both devices have autocast.
    possible = device.type in ("cpu", "cuda") or torch.amp.is_autocast_available(device.type)
    return possible and torch.is_autocast_enabled(device.type)


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels and definitions choose the dtype of each product themselves."""
    if autocasts(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def untraced(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function as it is, between what torch.compile makes of the code around it."""
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function
