"""Compiles Triton kernels for a GPU on a machine without one.

The variants run on small CPU tensors that are treated as tensors of a GPU. A kernel that they start
is compiled for sm_90 with the ptxas of Triton's package, and does not run: its results are zeros.
"""

from __future__ import annotations

import subprocess
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import variants
from variants import Attention
from variants.contract import device, tensor_cache
from variants.contract.device import pretended_gpu

REGISTERS = 255  # of a thread, on every recent GPU
SHARED_BYTES = 227 << 10  # of a program, on an H100
NO_KERNEL = "no kernel was started"


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel for sm_90, with the resources that it needs."""

    name: str
    constants: tuple[tuple[str, Any], ...]
    shared_bytes: int  # of a program
    registers: int  # of a thread
    stack_bytes: int  # of a thread: registers that were moved to memory
    ptx: str

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in self.constants)})"


class PretendedDriver:
    """The part of Triton's driver that compilation needs."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


Skip = Callable[[str, dict[str, Any]], bool]
"""Gets the name of a kernel and its constants; returns whether it is not compiled."""


@contextmanager
def compiling(folder: Path, skip: Skip | None = None) -> Iterator[list[CompiledKernel]]:
    """Compile every kernel that is started, instead of running it. `folder` keeps the results of
    Triton's compiler."""
    import triton
    from triton.runtime import jit

    found: dict[int, CompiledKernel] = {}
    listed: list[CompiledKernel] = []
    real = jit.JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if skip is not None and skip(_name(self), options):
            return
        built = real(self, *args, grid=grid, warmup=True, **options)
        if id(built) not in found:
            found[id(built)] = _described(self, built, options)
            listed.append(found[id(built)])

    before = triton.runtime.driver._active
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("TRITON_CACHE_DIR", str(folder))
        changed.setattr(jit.JITFunction, "run", run)
        changed.setattr(device, "interpreted", lambda: True)  # so that CPU tensors are taken
        for name in ("empty", "empty_like", "empty_strided"):
            changed.setattr(torch, name, _zeroed(getattr(torch, name)))
        changed.setattr(torch.Tensor, "new_empty", _zeroed(torch.Tensor.new_empty))
        triton.runtime.driver.set_active(PretendedDriver())
        tensor_cache.clear()
        try:
            with pretended_gpu("cpu"):
                yield listed
        finally:
            triton.runtime.driver._active = before
            tensor_cache.clear()


def _name(function: Any) -> str:
    return f"{function.fn.__module__.rpartition('.')[2]}.{function.fn.__qualname__}"


def _zeroed(make: Callable[..., Any]) -> Callable[..., Any]:
    def zeros(*args: Any, **named: Any) -> Any:
        return make(*args, **named).zero_()

    return zeros


def _described(function: Any, built: Any, options: dict[str, Any]) -> CompiledKernel:
    resources = dict(
        word.split(":") for word in _resources(built).split() if word.partition(":")[2].isdecimal()
    )
    return CompiledKernel(
        _name(function),
        tuple(sorted((name, str(value)) for name, value in options.items())),
        built.metadata.shared,
        int(resources["REG"]),
        int(resources["STACK"]),
        built.asm["ptx"],
    )


def _resources(built: Any) -> str:
    """The line that NVIDIA's tool prints: `REG:64 STACK:0 SHARED:0 LOCAL:0 ...`."""
    from triton.backends import nvidia

    tool = Path(nvidia.__file__ or "").parent / "bin" / "cuobjdump"
    file = next(path for name, path in built.metadata_group.items() if name.endswith(".cubin"))
    done = subprocess.run(
        [tool, "-res-usage", file], capture_output=True, text=True, check=True, timeout=60
    )
    return next(line for line in done.stdout.splitlines() if "REG:" in line)


def attentions_by_kernels() -> list[Attention]:
    """The attentions that have kernels of this project, at their default settings, and settings
    with other kernels."""
    names = [
        name
        for name, cls in sorted(variants.REGISTRY.items())
        if "triton" in cls.info.implementations
    ]
    texts = [*names, "chunked_state rule=gated_delta", "lsh num_hashes=4"]
    return [variants.parse(f"{text} implementation=triton") for text in texts]


def call(attention: Attention, dtype: torch.dtype, head_dim: int, length: int = 512) -> None:
    """One call with a backward pass, for four query heads and two key heads."""
    query, key, value = (
        torch.zeros(1, heads, length, head_dim, dtype=dtype, requires_grad=True)
        for heads in (4, 2, 2)
    )
    if attention.uses_shared_qk:
        key = query
    causal = attention.info.causal_choices[-1]
    out = attention(query, key, value, causal=causal)
    if "backward" in attention.supports:
        leaves = tuple({id(x): x for x in (query, key, value)}.values())
        torch.autograd.grad(out, leaves, torch.zeros_like(out), allow_unused=True)


def problems(kernel: CompiledKernel, most_stack: int) -> list[str]:
    """Why a GPU could not run the kernel well; empty if there is no reason."""
    limits = types.MappingProxyType(
        {"shared_bytes": SHARED_BYTES, "registers": REGISTERS, "stack_bytes": most_stack}
    )
    return [
        f"{kernel}: {name} is {getattr(kernel, name)}, more than {most}"
        for name, most in limits.items()
        if getattr(kernel, name) > most
    ]
