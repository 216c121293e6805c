"""Stores runs by machine, without names of users, hosts or paths."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import variants
from bench.instruments import environment

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    variants.choose_float32_route()  # like the worker of the bench
PRESENT = environment.describe(DEVICE)


def _machine() -> str:
    """A folder name from the facts that times depend on: hardware, and the versions of torch and
    Python."""
    hardware = PRESENT["hardware"]
    names = ("python", "torch")
    kept = {k: v for k, v in hardware.items() if k not in ("system", "memory_bytes")}
    kept |= {name: PRESENT["software"][name] for name in names}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]
    words = f"{hardware['gpu'] or hardware['processor']}".lower().split()
    return "-".join(["".join(c for c in word if c.isalnum()) for word in words] + [digest])


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if str(config.option.benchmark_storage) == "file://./.benchmarks":
        folder = Path("results/track") / _machine()
        config.option.benchmark_storage = f"file://{folder}"
        if config.option.benchmark_compare and not any(folder.rglob("*.json")):
            raise pytest.UsageError(
                f"nothing to compare with: {folder} holds no stored run; `make track` makes one"
            )


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    machine_info.clear()
    machine_info.update({**PRESENT["hardware"], **PRESENT["software"]})


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Times are measured with all threads, unlike in other tests."""
