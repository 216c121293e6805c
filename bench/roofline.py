"""Measures the limits of this machine: its matrix product rate and its copy bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import clock
from bench.torch_defaults import torch_defaults
from variants.engines.primitives.float32_route import present

SECONDS = 0.5  # sampling time of one operation
SUSPICIOUS = 1.05  # a row above this share of the limit was measured wrongly


def measure(device: torch.device, dtypes: list[str], seconds: float = SECONDS) -> dict[str, Any]:
    """The best matrix product rate of each dtype, in TFLOP/s, and the copy bandwidth, in GB/s.

    Several shapes and operations (matmul, a 1×1 convolution) are timed; the fastest is the limit.
    On a CPU, float32 is timed both at torch's defaults and on the route that this process has
    chosen.
    """
    rates: dict[str, float | None] = {}
    for name in dtypes:
        best = 0.0
        routes: list[Callable[[], AbstractContextManager[None]]] = [nullcontext]
        if (device.type, name) == ("cpu", "float32") and present() == "fast":
            routes.append(torch_defaults)
        for route in routes:
            with route():
                for flops, call in _products(device, getattr(torch, name)):
                    samples = clock.measure(call, device, seconds)
                    best = max(best, flops / min(samples.device_ms) / 1e9)
        rates[name] = best or None
    size = 1 << (28 if device.type == "cuda" else 26)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    samples = clock.measure(lambda: target.copy_(source), device, seconds)
    return {
        "matmul_tflops": rates,
        "copy_gb_per_s": 2 * size / min(samples.device_ms) / 1e6,
    }


def _products(
    device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[float, Callable[[], Tensor]]]:
    sizes = (4096, 8192) if device.type == "cuda" else (1024, 2048)
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
