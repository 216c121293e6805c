"""Counts the work of tensors on `meta`, which stand for tensors on a GPU.

Each operation of torch is recorded: its kernels, bytes and operations, the memory that is live, and
the places where the host would wait for the device. A value that the host reads from the device is
not known here, if it depends on query, key or value. A stand-in replaces it: 1 for a number, False
for a truth value, all elements for a mask.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import variants
from bench.launches import known_numbers, operations
from bench.launches.estimate import device_seconds

PACKAGE = Path(variants.__file__).parent
HALF = (torch.float16, torch.bfloat16)
aten = torch.ops.aten


class TooManyLaunches(Exception):
    """More kernels than the limit of the count."""


class OperationCount(TorchDispatchMode):
    """Counts the operations on `meta` tensors."""

    def __init__(self, most_launches: int | None = None) -> None:
        super().__init__()
        self.most_launches = most_launches
        self.launches = 0
        self.moved_bytes = 0
        self.flops = 0.0
        self.device_seconds = 0.0
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()
        self.live_bytes = self.peak_bytes = 0
        self._live: dict[int, int] = {}
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Operations inside are not counted; the memory that they keep is."""
        before, self._paused = self._paused, True
        peak = self.peak_bytes
        try:
            yield
        finally:
            self._paused = before
            self.peak_bytes = max(peak, self.live_bytes)

    def give(self, *tensors: Tensor) -> None:
        """Tensors that exist before the call; their memory is not counted."""
        for tensor in tensors:
            self._live[tensor.untyped_storage()._cdata] = 0

    def wait(self, kind: str) -> None:
        """Record that the host waits for the device."""
        if not self._paused:
            self.waits[f"{kind} in {place()}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _on_meta(args, kwargs):
            return func(*args, **kwargs)
        args = self._on_one_device(func, args, kwargs)
        found = self._read_by_the_host(func, args, kwargs)
        if found is not NotImplemented:
            return found
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._enter(tensor)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        known_numbers.follow(func, args, kwargs, out)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        kernels = 0 if self._paused else operations.kernels(func, args)
        tensors = [x for x in tree_leaves((out, args)) if isinstance(x, Tensor)]
        if not kernels or not any(x.numel() for x in tensors):
            return
        moved = operations.moved(func, args, kwargs, out)
        products = operations.flops(func, args, out)
        self.launches += kernels
        self.kernels[func._schema.name.removeprefix("aten::")] += kernels
        self.moved_bytes += moved
        self.flops += products
        kinds = [x.dtype for x in tree_leaves(args) if isinstance(x, Tensor)]
        self.device_seconds += device_seconds(moved, products, kinds[0] if kinds else None)
        if self.most_launches is not None and self.launches > self.most_launches:
            raise TooManyLaunches

    def _on_one_device(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The arguments with tensors of the host replaced, where they meet tensors of the device.
        Numbers without a dimension may be on the host."""
        name = operations.name_of(func)
        if name in ("copy_", "_to_copy"):
            return args

        def moved(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.device.type == "cpu" and value.ndim):
                return value
            if name.startswith("index"):
                self.wait("copy of an index to the device")
            else:
                self.mixed[f"{name} in {place()}"] += 1
            return value.to("meta")

        return tree_map(moved, args)

    def _read_by_the_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation for which the host waits; NotImplemented for others."""
        name = operations.name_of(func)
        if name == "_local_scalar_dense":
            self.wait("reading a number")
            if (known := known_numbers.of(args[0])) is not None:
                return known.item()
            dtype = args[0].dtype
            return False if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1
        if name == "_to_copy" and kwargs.get("device") is not None:
            return self._copied(args[0], kwargs)
        if name == "copy_" and args[0].device != args[1].device:
            self.wait("copy between host and device")
            return args[0]
        if name == "nonzero":
            return self._positions(args[0])
        if name in ("index", "index_put", "index_put_") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        ):
            indices: list[Tensor | None] = []
            for x in args[1]:
                found = x is not None and x.dtype in (torch.bool, torch.uint8)
                indices += list(self._positions(x).unbind(1)) if found else [x]
            return func(args[0], indices, *args[2:], **kwargs)
        if name == "masked_select":
            return aten.index.Tensor(args[0], [args[1]])
        if name == "bincount":
            self.wait("bincount")
            weights = args[1] if len(args) > 1 else None
            dtype = torch.int64 if weights is None else torch.float64
            return torch.zeros(max(1, _minlength(args, kwargs)), dtype=dtype, device="meta")
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.wait("repeat_interleave without output_size")
            return torch.zeros(len(args[0]), dtype=torch.int64, device="meta")
        if name in ("_unique2", "unique_dim", "unique_consecutive"):
            self.wait("unique")
            same = torch.empty_like(args[0].flatten())
            return same, torch.empty_like(args[0], dtype=torch.int64), same.long()
        return NotImplemented

    def _copied(self, source: Tensor, kwargs: Any) -> Any:
        target = torch.device(kwargs["device"])
        if source.device.type == target.type:
            return NotImplemented
        if not (kwargs.get("non_blocking") and target.type == "meta"):
            self.wait("copy to the host" if source.is_meta else "copy to the device")
        dtype = kwargs.get("dtype") or source.dtype
        if target.type == "meta":
            out = torch.empty(source.shape, dtype=dtype, device="meta")
            known_numbers.keep(out, source.detach().to(dtype))
            self._enter(out)
            return out
        known = known_numbers.of(source)
        return torch.ones(source.shape, dtype=dtype) if known is None else known.to(dtype)

    def _positions(self, mask: Tensor) -> Tensor:
        """The stand-in of `nonzero`: all elements."""
        self.wait("positions of true elements")
        return torch.zeros(mask.numel(), mask.ndim, dtype=torch.int64, device="meta")

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        before = self._live.get(address)
        if before == 0 or (before is None and not size):
            return
        self._live[address] = size
        self.live_bytes += size - (before or 0)
        if before is None:
            weakref.finalize(storage, self._leave, address)

    def _leave(self, address: int) -> None:
        self.live_bytes -= self._live.pop(address)


class GpuFunctions(TorchFunctionMode):
    """Functions that choose their work by the device: on `meta` they do the work of a GPU."""

    def __init__(self, count: OperationCount) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and args[0].is_meta:
            return _fused(*args, **kwargs)
        made = func in (torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor)
        made = made and torch.device(kwargs.get("device") or "cpu").type == "meta"
        own = func is Tensor.new_tensor and args[0].is_meta
        if (made or own) and not (args and isinstance(args[0], Tensor) and not own):
            self.count.wait("copy to the device")
        return func(*args, **kwargs)


def place() -> str:
    """File and line of the package `variants` that is running."""
    frame = sys._getframe(1)
    outer = None
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if PACKAGE in file.parents:
            return f"{file.relative_to(PACKAGE)}:{frame.f_lineno}"
        if outer is None and not {"torch", "launches"} & set(file.parts):
            outer = f"{file.name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return outer or "torch"


def _on_meta(args: Any, kwargs: Any) -> bool:
    if any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs))):
        return True
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "meta"


def _minlength(args: Any, kwargs: Any) -> int:
    return int(kwargs.get("minlength", args[2] if len(args) > 2 else 0))


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that torch chooses on a recent GPU: FlashAttention for half types without a mask,
    the memory-efficient kernel for others in up to float32, else separate operations."""
    grouped = query.shape[1] != key.shape[1]
    if query.dtype in HALF and attn_mask is None:
        out = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )
    elif query.dtype is not torch.float64 and not grouped:
        trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
            if attn_mask.dtype is torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
                    ~attn_mask, -torch.inf
                )
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, trains, dropout_p, is_causal, scale=scale
        )
    else:
        out = aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    found: Tensor = out[0]
    return found
