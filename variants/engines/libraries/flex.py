"""Runs a `Pattern` by FlexAttention: torch compiles one kernel for each pattern. The kernel skips
blocks of keys that no query of a block sees, and evaluates the pattern in partly visible blocks.

Dong et al., Flex Attention, 2024, https://arxiv.org/abs/2412.05496
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.contract.pattern import Pattern
from variants.engines.libraries.block_lists import block_lists

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def unavailable(device: torch.device) -> str | None:
    """The reason why FlexAttention cannot be compiled for this device; None if it can."""
    if device.type == "cpu":
        if not torch.cpu._is_avx2_supported():
            return "FlexAttention for a CPU needs AVX2"
        compiler = os.environ.get("CXX", "g++")
        missing = f"FlexAttention is compiled when called, and there is no C++ compiler {compiler}"
    elif device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "FlexAttention on CUDA needs Triton, which is not installed"
        # Triton builds the launcher of each kernel.
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang")), "gcc")
        missing = f"FlexAttention is compiled when called, and there is no C compiler {compiler}"
    else:
        return f"FlexAttention is for CPU and CUDA; got a tensor on {device.type}"
    return None if shutil.which(compiler.split()[0]) else missing


def attend(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, call: Call) -> Tensor:
    """Softmax attention over the keys that `pattern` shows; shapes as in `Attention.__call__`.

    The first call with a new pattern, shape, dtype or memory layout compiles for seconds; `prepare`
    compiles in advance.

    Raises:
        UnsupportedError: float64; a gradient on a CPU; head_dim below 16 on CUDA.
    """
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    _check(query, gradient)
    if not gradient:
        query, key, value = (x.detach() for x in (query, key, value))
    signature = (
        *((x.shape, x.stride(), x.requires_grad) for x in (query, key, value)),
        query.dtype,
        call.scale,
        call.key_padding_mask is not None,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
    )
    size = _block_size(pattern, query, gradient)
    mask = _block_mask(pattern, size, gradient, call.key_padding_mask, query.device)
    compiled = _kernels(pattern).compiled(signature)
    return compiled(query, key, value, mask, call.scale, _options(query, size))


def prepare(query: Tensor, key: Tensor, pattern: Pattern, call: Call) -> None:
    """Compile the kernels of a call with such tensors, including the backward pass if the query
    requires a gradient. The device may still be working when this function returns."""
    value = torch.zeros_like(key)
    if not (torch.is_grad_enabled() and query.requires_grad):
        attend(query, key, value, pattern, call)
        return
    query, key, value = (x.detach().requires_grad_() for x in (query, key, value))
    out = attend(query, key, value, pattern, call)
    torch.autograd.grad(out, (query, key, value), torch.zeros_like(out))


def _check(query: Tensor, gradient: bool) -> None:
    if query.dtype not in DTYPES:
        raise UnsupportedError(
            "FlexAttention takes float16, bfloat16 and float32; "
            f"got {str(query.dtype).removeprefix('torch.')}"
        )
    if gradient and query.device.type == "cpu":
        raise UnsupportedError("FlexAttention has no backward pass on a CPU")
    if query.device.type == "cuda" and query.shape[-1] < 16:
        raise UnsupportedError(
            f"FlexAttention on CUDA needs head_dim of at least 16; got {query.shape[-1]}"
        )


def _block_size(pattern: Pattern, query: Tensor, gradient: bool) -> int:
    """Number of queries and keys of a block. Small blocks waste less work at the edges of a band.

    On CUDA, torch's tiles need multiples of 128. In the forward pass with a half type they can be
    smaller, which avoids most of the wasted work for a pattern with blocks of 64.
    """
    if query.device.type == "cpu":
        return 64
    small = query.dtype != torch.float32 and query.shape[-1] <= 128 and not gradient
    return 64 if small and pattern.block_size == 64 else 128


def _options(query: Tensor, size: int) -> dict[str, Any]:
    """Options that make the tiles of a CUDA kernel no larger than the blocks."""
    if query.device.type == "cuda" and size < 128:
        return {"fwd_BLOCK_M": size, "fwd_BLOCK_N": size}
    return {}


class _Kernels:
    """The functions that are compiled once for the numbers of a pattern. Its random blocks are
    data, so patterns that differ only in their draws share the functions."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[Any, ...], Callable[..., Tensor]] = {}

    def compiled(self, signature: tuple[Any, ...]) -> Callable[..., Tensor]:
        if signature not in self._compiled:
            self._compiled[signature] = _to_compile()
        return self._compiled[signature]


# Kernels are dropped with the last pattern that uses them, because they need memory.
_shared: WeakValueDictionary[tuple[Any, ...], _Kernels] = WeakValueDictionary()
_kept: WeakKeyDictionary[Pattern, _Kernels] = WeakKeyDictionary()


def _kernels(pattern: Pattern) -> _Kernels:
    kept = _kept.get(pattern)
    if kept is None:
        drawn = pattern.random_blocks
        numbers = tuple(
            getattr(pattern, field.name)
            for field in dataclasses.fields(pattern)
            if field.name != "random_blocks"
        )
        layout = None if drawn is None else (drawn.shape, drawn.stride(), drawn.device)
        kept = _kept[pattern] = _shared.setdefault((numbers, layout), _Kernels())
    return kept


def _block_mask(
    pattern: Pattern,
    size: int,
    gradient: bool,
    key_padding_mask: Tensor | None,
    device: torch.device,
) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    lists = block_lists(pattern, size, key_padding_mask is not None, gradient, device)
    # Limits the numbers to the 32 bits of the kernel.
    most = pattern.query_len + pattern.key_len
    bounded = dataclasses.replace(
        pattern, window=min(pattern.window, most), block_size=min(pattern.block_size, most)
    )

    def mask(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        seen = bounded.sees(head, row + bounded.offset, column)
        if key_padding_mask is not None:
            seen = seen & ~key_padding_mask[batch, column]
        return seen

    return BlockMask(
        (pattern.query_len, pattern.key_len),
        *lists,
        BLOCK_SIZE=(size, size),
        mask_mod=mask,
    )


def _to_compile() -> Callable[..., Tensor]:
    """FlexAttention as a new function, which torch compiles at its first call."""
    from torch.nn.attention.flex_attention import flex_attention

    def call(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        scale: float,
        options: Any,
    ) -> Tensor:
        return flex_attention(
            query,
            key,
            value,
            block_mask=mask,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=options,
        )

    # torch counts compilations for each code object, and stops compiling after eight.
    call.__code__ = call.__code__.replace()
    return torch.compile(call, dynamic=False, fullgraph=True)
