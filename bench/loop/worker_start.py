"""Sets up a new worker process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import variants
from bench.instruments import environment

# Share of the free memory that a CPU worker may use. Above it, allocations raise an error; without
# this limit, the system would kill the worker.
MEMORY_SHARE = 0.9


def start(log: str, on_gpu: bool, modules: Sequence[str] = ()) -> None:
    """Set up a new worker process.

    Redirects its output to a log, imports the modules that add implementations, and on a CPU
    chooses the route of float32 products and limits the memory of the process.
    """
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    for module in modules:
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
