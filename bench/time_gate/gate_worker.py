"""A process that times calls of the variants of one revision: `python -m` runs this file.

It needs only the public interface of `variants`, so it also runs the variants of older revisions.
Requests and answers are JSON in frames.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import variants
from bench.instruments import c_memory, memory
from bench.loop.frames import read_frame, write_frame

STEPS = 32  # decoding steps after which the context is reset to its length


class GateWorker:
    """Prepares one case after the other and times its calls."""

    def __init__(self) -> None:
        self._call: Callable[[], Tensor] | None = None
        self._first = torch.empty(0)
        self._device = torch.device("cpu")

    def missing(self, attention: str) -> dict[str, Any]:
        """Why this revision has no such attention; empty if it has."""
        try:
            variants.parse(attention)
        except (KeyError, TypeError, ValueError) as error:
            return {"why": str(error)}
        return {"why": ""}

    def names(self, **cases: Any) -> dict[str, Any]:
        """The names of the cases that this revision has."""
        # Imports most of the harness, which a worker that measures does not need.
        from bench.time_gate.gate_cases import names_of

        return {"names": names_of(**cases)}

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Load the inputs of a case and call it once.

        Answers with `missing`, a reason, if this revision has no such attention.
        """
        self._call = None
        self._first = torch.empty(0)
        self._device = torch.device(case["device"])
        if self._device.type == "cpu":
            variants.choose_float32_route()  # as in a run
        else:
            torch.cuda.empty_cache()  # three processes share the memory
        if why := self.missing(case["attention"])["why"]:
            return {"missing": why}
        attention = variants.parse(case["attention"])
        tensors = load_file(case["inputs"], device=case["device"])
        query, value = tensors["query"], tensors["value"]
        key = query if attention.uses_shared_qk else tensors["key"]
        call = timed_call(attention, query, key, value, case)
        self._first = call().float().contiguous()
        self._synchronize()
        self._call = call
        return {}

    def time(self, calls: int) -> dict[str, Any]:
        """The nanoseconds of a number of calls that follow each other.

        A call that computes in this thread alone is measured by the CPU time of the process, which
        does not count the time in which other processes use the core.
        """
        alone = self._device.type == "cpu" and torch.get_num_threads() == 1
        clock = process_time_ns if alone else perf_counter_ns
        call = self._prepared()
        self._synchronize()
        start = clock()
        for _ in range(calls):
            call()
        self._synchronize()
        return {"ns": clock() - start}

    def facts(self, file: str) -> dict[str, Any]:
        """The peak of the bytes that a call allocates; writes the first output to a file."""
        call = self._prepared()
        save_file({"output": self._first}, file)
        return {"peak_bytes": memory.peak_bytes(call, self._device)}

    def _prepared(self) -> Callable[[], Tensor]:
        if self._call is None:
            raise RuntimeError("no case is prepared")
        return self._call

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def timed_call(
    attention: Any, query: Tensor, key: Tensor, value: Tensor, case: dict[str, Any]
) -> Callable[[], Tensor]:
    """The call of a direction. It returns the output of the forward pass."""
    causal = case["causal"]
    if case["direction"] == "decode":
        return decoding(attention, query, key, value)
    if case["direction"] == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return attention(query, key, value, causal=causal)

        return forward
    leaves = [tensor.requires_grad_() for tensor in dict.fromkeys((query, key, value))]
    grad = torch.ones_like(query)

    def forward_backward() -> Tensor:
        out = attention(query, key, value, causal=causal)
        torch.autograd.grad(out, leaves, grad, allow_unused=True)
        return out.detach()

    return forward_backward


def decoding(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Tensor]:
    """A decoding step after the context. The last token is decoded again and again."""
    with torch.no_grad():
        _, start = attention.prefill(query, key, value)
    token = [tensor[:, :, -1:] for tensor in (query, key, value)]
    state, steps = start, 0

    def step() -> Tensor:
        nonlocal state, steps
        state = start if steps % STEPS == 0 else state
        steps += 1
        with torch.no_grad():
            out, state = attention.step(state, *token)
        return out

    return step


def serve(worker: GateWorker) -> None:
    """Answer the requests that arrive through a pipe, until it is closed."""
    requests, answers, sources = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    found = Path(variants.__file__).resolve()
    if not found.is_relative_to(sources.resolve()):
        raise RuntimeError("another copy of `variants` was imported than that of the revision")
    c_memory.fix_thresholds()
    gc.collect()
    gc.freeze()  # the collections of a measurement of memory skip the imported modules
    write_frame(answers, b"{}")
    while (frame := read_frame(requests)) is not None:
        request = json.loads(frame)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        write_frame(answers, json.dumps(answer).encode())


if __name__ == "__main__":
    serve(GateWorker())
