"""Nodes of a Ray cluster on this machine, and functions that the tests run in its workers."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from ray.cluster_utils import Cluster

from bench.loop.ray_cluster import Patience

STORE = 80 * 2**20
QUICK = Patience(connect=60.0, head=2.0, machines=60.0)


def begin(text: str = "begun") -> None:
    os.environ["BEGUN"] = text


def where() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "openmp": os.environ["OMP_NUM_THREADS"],
        "begun": os.environ.get("BEGUN"),
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "added": os.environ.get("ADDED"),
    }


def leave(folder: str) -> None:
    """Start a process, write the numbers of both processes, and do not end."""
    child = subprocess.Popen(["sleep", "1000"])
    partial = Path(folder, "partial")
    partial.write_text(f"{os.getpid()} {child.pid}")
    partial.rename(Path(folder, "processes"))
    time.sleep(1000)


def fail(error: BaseException) -> None:
    raise error


def wait_for(true: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition holds."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"not in {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - started


def processes(folder: Path) -> list[int]:
    wait_for((folder / "processes").exists, 30)
    return [int(number) for number in (folder / "processes").read_text().split()]


def alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(**options: Any) -> Cluster:
    """A cluster of one node, the head."""
    Path("/tmp/ray").mkdir(exist_ok=True)  # Ray writes the address of the cluster there
    arguments = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    return Cluster(initialize_head=True, connect=False, head_node_args=arguments | options)


def kill_head(head: Cluster) -> None:
    head.head_node.kill_gcs_server()
    head.head_node.kill_raylet()
