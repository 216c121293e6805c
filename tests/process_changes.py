"""What an implementation may change in its process, by name."""

from __future__ import annotations

import builtins
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.workloads.process_settings import Fingerprint, differences
from tests.worker_faults import SLEEPER

ENTERED: list[Any] = []  # contexts that are never left; torch leaves one that is deleted


def _compute() -> None:
    while True:
        hash(b"something")


def _pool_that_computes() -> None:
    from concurrent.futures import ThreadPoolExecutor

    ThreadPoolExecutor().submit(_compute)


def _orphan() -> None:
    code = f"import subprocess; subprocess.Popen({SLEEPER}, start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _enter(context: Any) -> None:
    ENTERED.append(context)
    context.__enter__()


def _replace(module: object, name: str) -> None:
    original = getattr(module, name)
    setattr(module, name, lambda *given, **named: original(*given, **named))


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        "default dtype was torch.float32 and is torch.float64",
    ),
    "device": (
        lambda: torch.set_default_device("meta"),
        "default device was cpu and is meta",
    ),
    "threads": (lambda: torch.set_num_threads(3), r"threads was \d+ and is 3"),
    "grad": (lambda: torch.set_grad_enabled(False), "grad mode was True and is False"),
    "inference": (
        lambda: _enter(torch.inference_mode()),
        "inference mode was False and is True",
    ),
    "anomaly": (
        lambda: torch.autograd.set_detect_anomaly(True),
        "anomaly detection was False and is True",
    ),
    "precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        "float32 precision was none and is bf16",
    ),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        "deterministic algorithms was 0 and is 2",
    ),
    "subnormals": (
        lambda: torch.set_flush_denormal(True),
        "subnormal numbers was True and is False",
    ),
    "autocast": (
        lambda: _enter(torch.autocast("cpu", torch.bfloat16)),
        "autocast on cpu was False and is True",
    ),
    "sdpa": (
        lambda: torch.backends.cuda.enable_flash_sdp(False),
        "flash SDPA was True and is False",
    ),
    "numpy": (lambda: np.seterr(all="raise"), "numpy errors divide was warn and is raise"),
    "allocator": (
        lambda: os.environ.update(MALLOC_ARENA_MAX="1"),
        "environment variable MALLOC_ARENA_MAX was not set and is 1",
    ),
    "private variable": (
        lambda: os.environ.update(MY_TOKEN="secret"),
        "environment variable MY_TOKEN was not set and is set",
    ),
    "affinity": (
        lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        r"processors was \[.*\] and is \[\d+\]",
    ),
    "niceness": (lambda: os.nice(1), r"niceness was \d+ and is \d+"),
    "limit": (
        lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        r"limit RLIMIT_CORE was \(.*\) and is \(0, 0\)",
    ),
    "no garbage collection": (gc.disable, "garbage collection was True and is False"),
    "garbage collection": (
        lambda: gc.set_threshold(7, 7, 7),
        r"threshold of garbage collection was \(.*\) and is \(7, 7, 7\)",
    ),
    "handler": (
        lambda: signal.signal(signal.SIGALRM, print),
        r"handler of SIGALRM was SIG_DFL and is builtin_function_or_method",
    ),
    "timer": (
        lambda: signal.setitimer(signal.ITIMER_REAL, 500),
        "timer ITIMER_REAL was False and is True",
    ),
    "mask": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}),
        r"blocked signals was \[\] and is \[10\]",
    ),
    "profiler": (
        lambda: sys.setprofile(lambda *_: None),
        "profile function was None and is function",
    ),
    "clock": (
        lambda: _replace(time, "perf_counter"),
        r"function time\.perf_counter was replaced",
    ),
    "builtins": (lambda: _replace(builtins, "len"), r"function builtins\.len was replaced"),
    "torch": (
        lambda: _replace(torch.nn.functional, "scaled_dot_product_attention"),
        r"function torch\.nn\.functional\.scaled_dot_product_attention was replaced",
    ),
    "tensors": (
        lambda: _replace(torch.Tensor, "__matmul__"),
        r"function torch\.Tensor\.__matmul__ was replaced",
    ),
    "folder": (lambda: os.chdir("/"), "working directory was .* and is /"),
    "umask": (lambda: os.umask(0o077), "umask was .* and is 0o77"),
    "output": (lambda: os.close(1), "standard output was file .* and is closed"),
    "thread": (
        lambda: threading.Thread(target=time.sleep, args=(600,), name="idle", daemon=True).start(),
        "the thread 'idle' is left",
    ),
    "busy thread": (_pool_that_computes, "threads that still compute are left"),
    "child": (lambda: subprocess.Popen(SLEEPER), "the child process 'python.*' is left"),
    "orphan": (_orphan, "the child process 'python.*' is left"),
}


def found(name: str) -> list[str]:
    """The differences that are found after a change, which stays in this process."""
    before = Fingerprint.take()
    CHANGES[name][0]()
    return differences(before, Fingerprint.take())


def in_a_fork(name: str) -> list[str]:
    """The same in a child process, as one process cannot have all changes undone."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        from bench.loop.process_control import adopt_orphans

        adopt_orphans()
        os.write(writer, "\n".join(found(name)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text.splitlines()
