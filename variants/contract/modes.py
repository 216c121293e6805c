"""What torch's modes may do to a kernel: nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels and definitions choose the dtype of each product themselves."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def untraced(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function as it is, between what torch.compile makes of the code around it."""
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function
