"""Measures the limits of this machine: its matrix product rates, and its bandwidths of copying and
reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.instruments import clock
from bench.instruments.torch_defaults import torch_defaults
from variants.engines.primitives.float32_route import present, take

SECONDS = 0.5  # sampling time of one operation
QUICK = 0.1  # below this sampling time, a CPU multiplies no matrices whose product takes longer
SUSPICIOUS = 1.05  # above this share of the limit, the time or the limit was measured wrongly


def measure_device(device: str, dtypes: list[str], seconds: float) -> dict[str, Any]:
    """`measure`, as a call of a worker process: the parent process does not use devices."""
    return measure(torch.device(device), dtypes, seconds)


def measure(device: torch.device, dtypes: list[str], seconds: float = SECONDS) -> dict[str, Any]:
    """The limits of the machine, each the fastest of several operations and shapes.

    Returns:
        - `matmul_tflops`: matrix product rate of each dtype by its fastest route, in TFLOP/s; None
          for a dtype that is computed in another one
        - `matmul_tflops_by_route`: the same for each route (`_routes`)
        - `copy_gb_per_s`: bytes read and written by a copy, in GB/s
        - `read_gb_per_s`: bytes read by a sum and by a product of matrix and vector
    """
    by_route = {name: _rates(device, name, seconds) for name in dtypes}
    size = 1 << (28 if device.type == "cuda" else 26)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copy = clock.measure(partial(target.copy_, source), device, seconds)
    reads = [clock.measure(call, device, seconds) for call in _reads(source)]
    return {
        "matmul_tflops": {
            name: max(rates.values(), default=None) for name, rates in by_route.items()
        },
        "matmul_tflops_by_route": by_route,
        "copy_gb_per_s": 2 * size / min(copy.device_ms) / 1e6,
        "read_gb_per_s": size / min(min(samples.device_ms) for samples in reads) / 1e6,
    }


def implausible(tflops: float, limit: float | None) -> str:
    """Why a rate cannot be right on a machine with this limit; empty if it can, or without a limit.

    Both are in TFLOP/s. Other load lowers a measured limit, so the limit is measured again before a
    row is refused.
    """
    if not limit or tflops <= SUSPICIOUS * limit:
        return ""
    return (
        f"{tflops:.3g} TFLOP/s is {tflops / limit:.0%} of the measured matmul rate of this machine"
    )


def _rates(device: torch.device, name: str, seconds: float) -> dict[str, float]:
    """The matrix product rate of a dtype for each of its routes, in TFLOP/s."""
    rates: dict[str, float] = {}
    for route, entered in _routes(device, name).items():
        with entered:
            for flops, call in _products(device, getattr(torch, name), seconds):
                samples = clock.measure(call, device, seconds)
                rate = flops / min(samples.device_ms) / 1e9
                rates[route] = max(rates.get(route, 0.0), rate)
    return rates


def _routes(device: torch.device, name: str) -> dict[str, AbstractContextManager[None]]:
    """The ways in which torch multiplies matrices of a dtype.

    Only float32 has a second one: on a CPU the route that this process has chosen, on a GPU TF32,
    which rounds the operands. Kernels may take either, so the limit is that of the fastest.
    """
    if name == "float32" and device.type == "cuda":
        return {"default": nullcontext(), "tf32": _tf32()}
    if (device.type, name) == ("cpu", "float32") and present() == "fast":
        return {"default": torch_defaults(), "fast": nullcontext()}
    return {"default": nullcontext()}


@contextmanager
def _tf32() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        take("default")


def _reads(source: Tensor) -> Iterator[Callable[[], Tensor]]:
    """Operations that read all of `source` (bytes) once and write little."""
    numbers = source.view(torch.float32)
    yield numbers.sum
    matrix = numbers.view(1 << 12, -1)
    yield partial(torch.mv, matrix, torch.ones(matrix.shape[1], device=source.device))


def _products(
    device: torch.device, dtype: torch.dtype, seconds: float = SECONDS
) -> Iterator[tuple[float, Callable[[], Tensor]]]:
    sizes = [4096, 8192] if device.type == "cuda" else [1024, 2048]
    if device.type == "cpu" and seconds < QUICK:
        sizes.pop()
    if device.type == "cpu" and dtype is torch.float16:
        return  # all engines here compute float16 in float32 on a CPU
    for size in sizes:
        left = torch.randn(size, size, device=device).to(dtype)
        right = torch.randn(size, size, device=device).to(dtype)
        yield 2.0 * size**3, partial(torch.matmul, left, right)
    batch, rows, keys, depth = 64, 128, 640, 64
    queries = torch.randn(batch, rows, depth, device=device).to(dtype)
    transposed = torch.randn(batch, depth, keys, device=device).to(dtype)
    yield 2.0 * batch * rows * keys * depth, partial(torch.matmul, queries, transposed)
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        pixels, channels = 64, 1024
        image = torch.randn(1, channels, pixels, pixels).to(dtype)
        image = image.to(memory_format=torch.channels_last)
        taps = torch.randn(channels, channels, 1, 1).to(dtype)
        yield 2.0 * pixels**2 * channels**2, partial(torch.conv2d, image, taps)
