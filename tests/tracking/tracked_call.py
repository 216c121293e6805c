"""The call of a case, and the numbers that are stored with its times."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from bench.instruments import accuracy, memory, roofline
from bench.instruments.torch_defaults import torch_defaults
from bench.instruments.work import useful_flops
from bench.schema.case import Case
from bench.workloads.attention import decode_steps
from bench.workloads.attention.decode_steps import Decoder
from bench.workloads.attention.given_inputs import Given, Settings
from bench.workloads.attention.timed_call import (
    differentiable_forward,
    timed_call,
    used_implementation,
)
from variants import UnsupportedError
from variants.contract.checks import require
from variants.contract.registry import reference_attention

WARM_UP_SECONDS = 0.05


@dataclass(frozen=True)
class TrackedCall:
    """A call that can be timed, and all that its numbers are computed from."""

    case: Case
    given: Given
    key: Tensor
    call: Callable[[], Tensor]
    implementation: str

    @classmethod
    def of(cls, case: Case, given: Given) -> Self:
        """The call of a case, which has been called once. UnsupportedError if there is none."""
        attention, query = case.attention, given.inputs.query
        device = torch.device(case.device)
        if reason := attention.cannot_run(device):
            raise UnsupportedError(reason)
        trains = case.direction == "forward_backward"
        if trains:
            require(attention, "backward")
        if case.direction == "decode":
            require(attention, "step")
            decode_steps.check(attention, case)
        used = used_implementation(attention, case, given.inputs)
        key = query if attention.uses_shared_qk else given.inputs.key
        with torch.set_grad_enabled(trains):
            attention.prepare(query.detach().requires_grad_(trains), key, causal=case.causal)
        call = timed_call(attention, given.inputs, key, case)
        found = cls(case, given, key, call, used)
        with found.settings():
            found()
        return found

    def __call__(self) -> Tensor:
        """Call the attention, and wait for the device."""
        out = self.call()
        if out.is_cuda:
            torch.cuda.synchronize(out.device)
        return out

    def settings(self) -> AbstractContextManager[None]:
        """The settings of torch under which the case is measured, as in rows of a sweep."""
        at_defaults = self.implementation == reference_attention().implementation
        return torch_defaults() if at_defaults or isinstance(self.call, Decoder) else nullcontext()

    def warm_up(self) -> None:
        """Call until the caches and the clock of the machine have settled."""
        until = time.perf_counter() + WARM_UP_SECONDS
        while time.perf_counter() < until:
            self()

    def accuracy(self, out: Tensor) -> accuracy.MeasuredAccuracy:
        """The errors of an output of the call."""
        reference = self.given.reference
        rows = self.call.out if isinstance(self.call, Decoder) else out[:, :, reference.sample.rows]
        shared = self.case.attention.uses_shared_qk
        return accuracy.measure(self.case.attention, reference, rows, shared_qk=shared)

    def wrong(self, seen: accuracy.MeasuredAccuracy) -> str:
        """Why an output with these errors is wrong; empty if it is not."""
        attention = self.case.attention
        reduced = self.implementation in attention.info.reduced_precision
        bound = accuracy.rounding(self.case.dtype, reduced_precision=reduced)
        error = seen.impl_error_rel_l2
        if error is not None and not error <= bound:  # also if it is NaN
            return (
                f"the output differs from the dense definition of {self.case.variant} by "
                f"{error:.2g}; rounding in {self.case.dtype} explains at most {bound:.2g}"
            )
        return accuracy.contradiction(attention, seen)

    def counts(self) -> dict[str, Any]:
        """Bytes and operations of the call, which do not depend on time."""
        device = torch.device(self.case.device)
        found: dict[str, Any] = {"peak_memory_bytes": memory.peak_bytes(self.call, device)}
        if self.case.direction == "forward_backward":
            attention, inputs = self.case.attention, self.given.inputs
            _, forward = differentiable_forward(attention, inputs, self.key, self.case)
            found["saved_for_backward_bytes"] = memory.saved_bytes(forward, device)
        if (flops := useful_flops(self.case.attention, self.case)) is not None:
            found["useful_flops"] = flops
        return found

    def share(self, seconds: float, settings: Settings) -> float | None:
        """`roofline_fraction` of a call that takes this time; None if it is not known, or if other
        load has lowered the measured limit below the rate of the call."""
        if isinstance(self.call, Decoder):
            if not settings.read_gb_per_s:
                return None
            return self.call.state.filled_bytes / seconds / 1e9 / settings.read_gb_per_s
        flops = useful_flops(self.case.attention, self.case)
        limit = settings.matmul_tflops.get(self.case.dtype)
        if flops is None or not limit or roofline.implausible(flops / seconds / 1e12, limit):
            return None
        return flops / seconds / 1e12 / limit
