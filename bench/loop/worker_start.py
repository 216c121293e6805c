"""Sets up a new worker process."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

import variants
from bench.instruments import c_memory, environment
from bench.loop.memory_limit import limit_memory

# Imported before implementations, so that it has the original clock whatever they replace.
MEASURING = "bench.workloads.attention.measure_case"


_limits: list[str] = []  # the memory limit of this process, in words


def start(on_gpu: bool, modules: Sequence[str] = (), group: str | None = None) -> None:
    """Set up a new worker process.

    Imports the modules that add implementations, chooses the route of float32 products on a CPU,
    and limits the memory of the process.

    Args:
        on_gpu: whether cases run on a GPU.
        modules: names of modules that add implementations.
        group: folder of the control group of the run, if there is one.
    """
    for module in (MEASURING, *modules):
        import_module(module)
    if not on_gpu:
        c_memory.fix_thresholds()
        variants.choose_float32_route()
    _limits.append(limit_memory(group, on_gpu=on_gpu))
    _exempt_from_collections()


def _exempt_from_collections() -> None:
    """Exempt the objects of imported modules from garbage collections.

    Each measurement of memory collects garbage first, and a collection that looks at all objects
    of torch takes 0.1 to 0.2 s.
    """
    gc.collect()
    gc.freeze()
    # Libraries report objects that are left at the end of the process.
    atexit.register(gc.unfreeze)


def describe(device: str) -> dict[str, Any]:
    """The environment of a worker process."""
    limit = _limits[-1] if _limits else "none"
    return {**environment.describe(torch.device(device)), "memory_limit": limit}
