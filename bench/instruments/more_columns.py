"""The columns of a row that need more calls or sensors: launches, clock, power, energy, and whether
results repeat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.instruments import energy, repeatability
from bench.instruments.clock import Samples
from bench.instruments.gpu_sensors import Watch, sensors_of
from bench.instruments.stream import CudaStream
from bench.schema.case import Case
from variants import Attention


def watch(device: torch.device) -> Watch:
    """A watch on the sensors of a device; it sees nothing on a CPU."""
    return Watch(sensors_of(device))


def columns(
    attention: Attention,
    case: Case,
    timed: Callable[[], Tensor],
    tokens: tuple[Tensor, Tensor, Tensor],
    samples: Samples,
    watched: Watch,
    *,
    first_ms: float,
    energy_seconds: float,
) -> dict[str, float | bool | None]:
    """Measure what the clock does not.

    Args:
        timed: the timed call.
        tokens: query, key and value of the case.
        first_ms: time of the first call with its preparation.
        energy_seconds: time in which calls are repeated to measure their energy; 0 for no energy.
    """
    device, call_ms = torch.device(case.device), samples.quartiles[1]
    ahead = samples.runs_ahead
    found: dict[str, float | bool | None] = {
        "launch_bound": samples.launch_bound,
        "host_in_time": None if ahead is None else not ahead,
        **watched.columns,
    }
    if energy_seconds and device.type == "cuda":
        found["energy_mj"] = energy.per_call_mj(
            timed, CudaStream(device), sensors_of(device), call_ms, energy_seconds
        )
    if case.direction == "forward" and case.projections == "none":
        found |= repeatability.columns(
            attention, timed, tokens, causal=case.causal, call_ms=call_ms, first_ms=first_ms
        )
    return found
