"""Sets up a new worker process."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import variants
from bench.instruments import environment

# Share of the free memory that a CPU worker may use. Above it, allocations raise an error; without
# this limit, the system would kill the worker.
MEMORY_SHARE = 0.9
# Imported before implementations, so that it has the original clock whatever they replace.
MEASURING = "bench.workloads.attention.measure_case"


def start(on_gpu: bool, modules: Sequence[str] = ()) -> None:
    """Set up a new worker process.

    Imports the modules that add implementations, and on a CPU chooses the route of float32
    products and limits the memory of the process.
    """
    for module in (MEASURING, *modules):
        import_module(module)
    if not on_gpu:
        variants.choose_float32_route()
    free = environment.memory_bytes("MemAvailable")
    if on_gpu or free is None:
        return  # CUDA reserves much more address space than it uses
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(MEMORY_SHARE * free)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
