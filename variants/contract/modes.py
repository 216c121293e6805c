"""The modes of torch that a call may run under: autocast, torch.compile, and programs that are
traced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

Result = TypeVar("Result")

# The modes in which torch runs operations on tensors without data, or records operations.
_C: Any = torch._C
_TRACERS = tuple(
    getattr(_C._TorchDispatchModeKey, name) for name in ("FAKE", "PROXY", "FUNCTIONAL")
)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is active on this device; some devices, such as meta, have no autocast."""
    # torch 2.10 and 2.11 do not compile `is_autocast_available`; cpu and cuda have autocast.
    possible = device.type in ("cpu", "cuda") or torch.amp.is_autocast_available(device.type)
    return possible and torch.is_autocast_enabled(device.type)


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast tensors as torch's `scaled_dot_product_attention` does: under autocast, floating-point
    tensors except float64 get the dtype of autocast."""
    if not all(isinstance(x, Tensor) for x in tensors):
        return tensors  # `check_call` raises the error
    return tuple(_cast(x) for x in tensors)


def _cast(tensor: Tensor) -> Tensor:
    if not autocasts(tensor.device):
        return tensor
    if not tensor.is_floating_point() or tensor.dtype is torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, as kernels and definitions choose the dtype of each product."""
    if autocasts(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def tracing() -> bool:
    """Whether torch now records or simulates operations instead of computing them: torch.export,
    make_fx, FakeTensorMode, functionalize and the other transforms of torch.func, torch.jit.trace,
    or torch.compile."""
    return torch.compiler.is_compiling() or transforming() or _recording()


def holds_numbers(tensor: Tensor) -> bool:
    """Whether the numbers in a tensor can be read now: False while a program is traced or
    compiled."""
    return not (torch.compiler.is_compiling() or _recording() or pretended(tensor))


def exporting() -> bool:
    """Whether torch records a program without graph breaks; torch.compile may have them."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return _recording()


def _recording() -> bool:
    modes = any(_C._get_dispatch_mode(mode) is not None for mode in _TRACERS)
    found: bool = modes or _C._is_tracing()
    return found


def transforming() -> bool:
    """Whether a transform of torch.func is active: grad, jvp, vmap, functionalize, ..."""
    found: bool = _C._are_functorch_transforms_active()
    return found


def pretended(tensor: Tensor) -> bool:
    """Whether a tensor has no data, or represents another tensor in a traced program."""
    return (
        tensor.is_meta
        or isinstance(tensor, FakeTensor | FunctionalTensor)
        or _C._functorch.is_functorch_wrapped_tensor(tensor)
        or torch._is_functional_tensor(tensor)
    )


def untraced(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function without tracing: torch.compile makes a graph break before and after it."""
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function
