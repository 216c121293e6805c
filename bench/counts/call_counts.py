"""The counts of one case: bytes, operations and errors of a call."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.counts.dispatched_operations import DispatchedOperations, Operation
from bench.instruments import accuracy, memory
from bench.instruments.work import useful_flops
from bench.launches.simulation import CallWork, Shape, simulate
from bench.plan import sweep
from bench.plan.every_implementation import every_implementation
from bench.schema.case import Case
from bench.workloads.attention.decode_steps import Decoder
from bench.workloads.attention.given_inputs import Given
from bench.workloads.attention.timed_call import differentiable_forward, timed_call
from variants import Attention

CPU = torch.device("cpu")
CASES = Path(__file__).with_name("cases.toml")


@dataclass(frozen=True)
class CallCounts:
    """The counts of one call that has run before.

    Attributes:
        peak_bytes: largest sum of the bytes that torch's allocator holds for the call.
        saved_bytes: bytes between the forward and the backward pass; None without a backward pass.
        useful_flops: multiplications and additions that the method needs; None if not declared.
        error: relative L2 distance of the output from exact attention in float64.
        rounding_error: the same from the method's own definition in float64.
        gradient_errors: relative L2 distances of the gradients of query, key and value from those
            of exact attention in float64; empty without a backward pass.
        operations: by name, without views.
        at_peak: by operation, bytes of its tensors that are live when most bytes are.
        gpu_bytes: bytes that the call would read and write on a GPU, by simulation; None for
            decoding, and for an implementation that is not `auto`.
        gpu_launches: launches on a GPU by the name of the kernel, by the same simulation.
    """

    peak_bytes: int
    error: float
    rounding_error: float
    operations: dict[str, Operation]
    gradient_errors: dict[str, float] = field(default_factory=dict)
    saved_bytes: int | None = None
    useful_flops: int | None = None
    at_peak: dict[str, int] = field(default_factory=dict)
    gpu_bytes: int | None = None
    gpu_launches: dict[str, int] = field(default_factory=dict)


def cases() -> list[Case]:
    """The cases of cases.toml, with each implementation that runs on a CPU."""
    return every_implementation(sweep.read(CASES).cases("cpu", {}), CPU)


def count(case: Case, given: Given) -> CallCounts:
    """Call the attention of a case, with one thread, and count.

    Args:
        case: the case.
        given: its inputs and exact outputs; those of all cases with the same shape are equal.

    Raises:
        UnsupportedError: the attention does not compute this case.
    """
    attention, query = case.attention, given.inputs.query
    key = query if attention.uses_shared_qk else given.inputs.key
    trains = case.direction == "forward_backward"
    with torch.set_grad_enabled(trains):
        attention.prepare(query.detach().requires_grad_(trains), key, causal=case.causal)
    call = timed_call(attention, given.inputs, key, case)
    out = call()
    with DispatchedOperations() as operations:
        call()
    saved, gradient_errors = None, {}
    if trains:
        gradient_errors = _gradient_errors(attention, given)
        _, forward = differentiable_forward(attention, given.inputs, key, case)
        saved = memory.saved_bytes(forward, CPU)
    rows = call.out if isinstance(call, Decoder) else out[:, :, given.reference.sample.rows]
    quality = accuracy.measure(attention, given.reference, rows, shared_qk=attention.uses_shared_qk)
    flops = useful_flops(attention, case)
    error = _finite("the output", quality.approx_error_rel_l2)
    on_gpu = _on_gpu(case)
    return CallCounts(
        peak_bytes=memory.peak_bytes(call, CPU),
        saved_bytes=saved,
        useful_flops=None if flops is None else round(flops),
        error=error,
        rounding_error=quality.impl_error_rel_l2 or 0.0,
        operations=operations.found(),
        gradient_errors=gradient_errors,
        at_peak=operations.at_peak,
        gpu_bytes=None if on_gpu is None else round(on_gpu.moved_bytes),
        gpu_launches={} if on_gpu is None else dict(sorted(on_gpu.kernels.items())),
    )


def _gradient_errors(attention: Attention, given: Given) -> dict[str, float]:
    """The errors of the gradients by input, without those that are not defined."""
    shared = attention.uses_shared_qk
    errors = accuracy.gradient_errors(attention, given.reference, shared_qk=shared)
    found = zip(("query", "key", "value"), errors, strict=True)
    return {
        name: _finite(f"the gradient of the {name}", error)
        for name, error in found
        if error is not None
    }


def _finite(name: str, error: float | None) -> float:
    """The error; ArithmeticError if it is no finite number."""
    if error is None or not math.isfinite(error):
        raise ArithmeticError(f"the error of {name} is {error}")
    return error


def _on_gpu(case: Case) -> CallWork | None:
    """The work of the call on a GPU in bfloat16; None if it is not simulated."""
    if case.attention.implementation != "auto" or case.direction == "decode":
        return None
    shape = Shape(
        seq_len=case.seq_len,
        heads=case.heads,
        head_dim=case.head_dim,
        batch=case.batch,
        causal=case.causal,
    )
    return simulate(case.attention, shape, case.direction)
