"""The settings of a process that change times or results: compared before and after each case.

The states of random number generators are not among them. Every measurement draws from a generator
of its own, which starts from the seed of the case.
"""

from __future__ import annotations

import builtins
import gc
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from bench.workloads.left_behind import Alive

__all__ = ["Fingerprint", "differences"]

# Modules whose functions must not be replaced.
MODULES: Mapping[str, Any] = {
    "builtins": builtins,
    "time": time,
    "math": math,
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch.nn.functional": torch.nn.functional,
}
# torch and triton set these when they compile the first kernel, or use CUDA for the first time.
SET_BY_TORCH = ("TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_", "CUDA_MODULE_LOADING", "KINETO_")
# The values of other variables may be private.
SHOWN = re.compile(r"OMP_|MKL_|KMP_|GOMP_|CUDA_|PYTORCH_|TORCH_|MALLOC_|CUBLAS_|OPENBLAS_")
SUBNORMAL = math.ulp(0.0)


@dataclass(frozen=True)
class Fingerprint:
    """A process at one moment: its settings by their names, the attributes of `MODULES`, its
    threads and its children."""

    settings: Mapping[str, object]
    attributes: Mapping[str, Mapping[str, object]]
    alive: Alive

    @classmethod
    def take(cls) -> Fingerprint:
        """Read all settings. Grad mode and the modes like it are those of the calling thread."""
        found: dict[str, object] = {}
        for name, read in READERS.items():
            try:
                value: Any = read()
            except Exception as error:  # torch refuses to read settings that contradict each other
                value = f"not readable ({type(error).__name__})"
            if isinstance(value, dict):
                found |= {f"{name} {part}": one for part, one in value.items()}
            else:
                found[name] = value
        attributes = {name: _content(module) for name, module in MODULES.items()}
        return cls(MappingProxyType(found), attributes, Alive.now())


def differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """A text for each setting that differs: its name, what it was and what it is; and for each
    thread and child process that is left."""
    first, second = before.settings, after.settings
    found = []
    for name in (*first, *(name for name in second if name not in first)):
        was, now = first.get(name, _Unset), second.get(name, _Unset)
        if was != now:
            found.append(_sentence(name, was, now))
    for module, content in before.attributes.items():
        later = after.attributes[module]
        for name, attribute in content.items():
            now = later.get(name, attribute)
            if now is not attribute and callable(attribute) and not _by_torch(module, now):
                found.append(f"function {module}.{name} was replaced")
    return found + after.alive.since(before.alive)


class _Unset:
    """Stands for a setting that is not set."""


@dataclass(frozen=True, eq=False)
class _Same:
    """An object that must stay the same object. Its own comparison is not used."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


def _sentence(name: str, was: object, now: object) -> str:
    private = name.startswith("environment variable ") and not SHOWN.match(name.split()[-1])
    words = []
    for value in (was, now):
        if value is _Unset:
            words.append("not set")
        elif isinstance(value, _Same):
            words.append(_name(value.value))
        else:
            words.append("set" if private else str(value))
    if words[0] == words[1]:
        return f"{name} was changed"
    return f"{name} was {words[0]} and is {words[1]}"


def _name(value: object) -> str:
    """A name for a handler of a signal, or for an object of torch."""
    if value is None or isinstance(value, int | str):
        return str(getattr(value, "name", value))
    return type(value).__name__


def _subnormals() -> bool:
    """Whether numbers below the normal ones are kept in this thread."""
    return SUBNORMAL * 1.0 != 0.0


def _by_torch(module: str, function: Any) -> bool:
    """Whether torch itself has replaced a function of its own, as when it first compiles."""
    names = getattr(function, "__globals__", None)
    origin = names.get("__name__") if names else getattr(function, "__module__", None)
    return module.startswith("torch") and str(origin).partition(".")[0] == "torch"


def _content(of: object) -> dict[str, object]:
    """The attributes of a module, or of a class with those that it inherits."""
    parts = reversed(of.__mro__[:-1]) if isinstance(of, type) else [of]
    return {name: value for part in parts for name, value in vars(part).items()}


def _environment() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith(SET_BY_TORCH)}


def _handlers() -> dict[str, object]:
    return {
        signal.Signals(number).name: _Same(signal.getsignal(number))
        for number in signal.valid_signals()
        if number in signal.Signals._value2member_map_
    }


def _timers() -> dict[str, bool]:
    """Whether each interval timer runs."""
    names = ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
    return {name: any(signal.getitimer(getattr(signal, name))) for name in names}


def _limits() -> dict[str, tuple[int, int]]:
    import resource

    names = (name for name in dir(resource) if name.startswith("RLIMIT_"))
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def _standard_streams() -> dict[str, str]:
    found = {}
    for number, name in enumerate(("input", "output", "error")):
        try:
            state = os.fstat(number)
            found[name] = f"file {state.st_dev}:{state.st_ino}"
        except OSError:
            found[name] = "closed"
    return found


def _umask() -> str:
    mask = os.umask(0o077)
    os.umask(mask)
    return oct(mask)


def _devices() -> dict[str, object]:
    """The current device and stream of CUDA, once CUDA is in use."""
    if not torch.cuda.is_initialized():
        return {}
    return {
        "device": torch.cuda.current_device(),
        "stream": torch.cuda.current_stream().cuda_stream,
        "allocator": torch.cuda.get_allocator_backend(),
    }


def _readers() -> Iterator[tuple[str, Callable[[], object]]]:
    """Names of settings and functions that read them, bound before implementations are imported."""
    backends: Any = torch.backends
    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = backends.mkldnn
    deterministic: Any = torch.utils.deterministic
    # First, as other readers open files.
    yield "standard", _standard_streams
    yield "default dtype", torch.get_default_dtype
    yield "default device", torch.get_default_device
    yield "threads", torch.get_num_threads
    yield "interop threads", torch.get_num_interop_threads
    yield "grad mode", torch.is_grad_enabled
    yield "inference mode", torch.is_inference_mode_enabled
    yield "anomaly detection", torch.is_anomaly_enabled
    yield "function modes of torch", torch._C._len_torch_function_stack
    yield "dispatch modes of torch", torch._C._len_torch_dispatch_stack
    yield "float32 precision", lambda: mkldnn.matmul.fp32_precision
    yield "general float32 precision", lambda: backends.fp32_precision
    yield "float32 precision of CUDA", lambda: cuda.matmul.fp32_precision
    yield "float32 precision of cuDNN", lambda: cudnn.conv.fp32_precision
    yield "oneDNN enabled", lambda: mkldnn.enabled
    yield "cuDNN enabled", lambda: cudnn.enabled
    yield "cuDNN benchmark", lambda: cudnn.benchmark
    yield "cuDNN deterministic", lambda: cudnn.deterministic
    yield (
        "reduced precision sums in float16",
        lambda: cuda.matmul.allow_fp16_reduced_precision_reduction,
    )
    yield (
        "reduced precision sums in bfloat16",
        lambda: cuda.matmul.allow_bf16_reduced_precision_reduction,
    )
    yield "deterministic algorithms", torch.get_deterministic_debug_mode
    yield (
        "filling of uninitialized memory",
        lambda: deterministic.fill_uninitialized_memory,
    )
    yield "subnormal numbers", _subnormals
    for device in ("cpu", "cuda"):
        yield f"autocast on {device}", partial(torch.is_autocast_enabled, device)
        yield f"autocast dtype on {device}", partial(torch.get_autocast_dtype, device)
    yield "autocast cache", torch.is_autocast_cache_enabled
    yield "flash SDPA", cuda.flash_sdp_enabled
    yield "memory-efficient SDPA", cuda.mem_efficient_sdp_enabled
    yield "math SDPA", cuda.math_sdp_enabled
    yield "cuDNN SDPA", cuda.cudnn_sdp_enabled
    yield "CUDA", _devices
    yield "numpy errors", np.geterr
    yield "environment variable", _environment
    yield "garbage collection", gc.isenabled
    yield "threshold of garbage collection", gc.get_threshold
    yield "switch interval", sys.getswitchinterval
    yield "trace function", lambda: _Same(sys.gettrace())
    yield "trace function of threads", lambda: _Same(threading.gettrace())
    yield "profile function", lambda: _Same(sys.getprofile())
    yield "profile function of threads", lambda: _Same(threading.getprofile())
    yield "handler of", _handlers
    yield "blocked signals", lambda: sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    yield "timer", _timers
    yield "limit", _limits
    yield "working directory", os.getcwd
    yield "umask", _umask
    yield "niceness", lambda: os.getpriority(os.PRIO_PROCESS, 0)
    if hasattr(os, "sched_getaffinity"):
        yield "processors", lambda: sorted(os.sched_getaffinity(0))
        yield "scheduler", lambda: os.sched_getscheduler(0)


READERS = dict(_readers())
