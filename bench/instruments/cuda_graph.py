"""Records a call once as a CUDA graph, and replays it.

The host launches a graph at once, however many kernels it has. So a replay shows the time of a
method whose eager call is bound by launches. A replay runs the same kernels on the same tensors:
the inputs keep their places, tensors that are kept between calls are made before, and each replay
writes the same output.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.schema.case import Case
from variants import UnsupportedError
from variants.contract import tensor_cache

WARM_UP_CALLS = 3  # on the stream of the recording; kernels compile and kept tensors are made

_failed = False


def refuse(case: Case) -> None:
    """UnsupportedError if the case replays a graph on a device that has none."""
    if case.launch == "graph" and case.device != "cuda":
        raise UnsupportedError(
            f"launch=graph replays a CUDA graph and needs device=cuda; got device={case.device}"
        )


def recorded(call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Record `call`, and return a function that replays it and returns its output.

    Raises:
        UnsupportedError: the call waits for the device, or cannot be recorded.
    """
    global _failed
    with _side_stream(device):
        for _ in range(WARM_UP_CALLS):
            call()
        torch.cuda.synchronize(device)
        # Found before the recording, as a failed recording leaves the allocator in its state.
        if why := first_wait(call):
            raise UnsupportedError(f"a call that waits for the device cannot be recorded: {why}")
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device)):
                out = call()
        except Exception as error:
            _failed = True
            first = error.__context__ or error  # the end of a failed recording raises too
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            raise UnsupportedError(
                f"the call cannot be recorded as a CUDA graph: {first}"
            ) from error

    return _Replay(graph, out, tensor_cache.held_tensors())


@dataclass(frozen=True)
class _Replay:
    """A recorded call."""

    graph: torch.cuda.CUDAGraph
    out: Tensor
    # The graph reads kept tensors at their places, also after the cache has dropped them.
    held: list[Tensor]

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.out


def spoiled() -> bool:
    """Whether a recording failed in this process, so that it must not measure other cases."""
    return _failed


def first_wait(call: Callable[[], object]) -> str:
    """torch's message on the first operation of `call` that waits for the device; empty if there is
    none."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return ""


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Make another stream the current one, as the default stream cannot be recorded."""
    outer, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(outer)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        outer.wait_stream(own)
