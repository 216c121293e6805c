"""Makes the row of a case from its measurements; numbers that cannot be right are refused."""

from __future__ import annotations

import statistics

import torch

from bench.instruments import accuracy, roofline
from bench.instruments.work import useful_flops
from bench.schema.case import Case
from bench.schema.measurement import Measurement
from bench.schema.outcome import DIFFERS, Status
from bench.workloads.attention import exact_baselines
from bench.workloads.attention.current_shape import MeasuredShape
from bench.workloads.attention.given_inputs import Settings
from bench.workloads.attention.observe import Seen
from variants import Attention

LIMIT = "other load lowered the measured limit of the machine, or the time is wrong"


def row_of(case: Case, seen: Seen, shape: MeasuredShape, settings: Settings) -> Measurement:
    """The row of a case; its status is `incorrect` if the output cannot be right.

    A time that cannot be right says nothing about the output: its status is `implausible_time`. The
    row counts as disturbed, so the case is measured again once.
    """
    attention = case.attention
    if reason := _wrong_output(attention, case, seen):
        return Measurement.of(case, Status.INCORRECT, reason)
    first, median, third = seen.samples.quartiles
    flops = useful_flops(attention, case)
    tflops = None if flops is None else flops / median / 1e9
    fraction = None
    if tflops is not None and (limit := _limit(case, seen, tflops, settings)):
        if reason := roofline.implausible(tflops, limit):
            return Measurement.of(case, Status.IMPLAUSIBLE_TIME, reason, disturbed=LIMIT)
        fraction = tflops / limit
    if seen.filled_bytes is not None and settings.read_gb_per_s:
        fraction = seen.filled_bytes / median / 1e6 / settings.read_gb_per_s
    sdpa, exact = exact_baselines.of_sdpa(shape.exact), exact_baselines.fastest(shape.exact)
    exact_bytes = exact_baselines.smallest_peak(shape.exact)
    return Measurement.of(
        case,
        Status.OK,
        f"{DIFFERS}{attention.differs}" if attention.differs else "",
        seen.accuracy,
        shape.given.facts,
        implementation_used=seen.implementation,
        target=attention.target,
        time_ms_median=median,
        time_ms_q1=first,
        time_ms_q3=third,
        time_ms_min=min(seen.samples.device_ms),
        repeats=len(seen.samples.device_ms),
        wall_ms_median=statistics.median(seen.samples.wall_ms),
        prepare_ms=seen.prepare_ms,
        exact_ms_median=exact.median_ms if exact else None,
        exact_implementation=exact.implementation if exact else "",
        sdpa_ms_median=sdpa.median_ms if sdpa else None,
        sdpa_route_ms_median=sdpa.on_route_ms if sdpa else None,
        float32_route=seen.float32_route,
        speedup_vs_exact=exact.median_ms / median if exact else None,
        peak_memory_bytes=seen.peak.bytes,
        state_bytes=seen.state_bytes,
        exact_peak_memory_bytes=exact_bytes,
        memory_vs_exact=seen.peak.bytes / exact_bytes if exact_bytes else None,
        process_peak_bytes=seen.peak.process_bytes,
        saved_for_backward_bytes=seen.saved_bytes,
        memory_note=seen.peak.note,
        useful_flops=flops,
        tflops=tflops,
        roofline_fraction=fraction,
        **seen.instruments,
    )


def _wrong_output(attention: Attention, case: Case, seen: Seen) -> str:
    """Why the output is wrong; empty if it is not."""
    bound = accuracy.rounding(
        case.dtype,
        reduced_precision=seen.implementation in attention.info.reduced_precision,
    )
    error = seen.accuracy.impl_error_rel_l2
    # Written so that NaN is also incorrect.
    if error is not None and not error <= bound:
        return (
            f"the output differs from its own dense definition by {error:.2g}; "
            f"rounding in {case.dtype} explains at most {bound:.2g}"
        )
    return accuracy.contradiction(attention, seen.accuracy)


def _limit(case: Case, seen: Seen, tflops: float, settings: Settings) -> float | None:
    """The matmul rate of this machine for a row of this rate, in TFLOP/s.

    The limit may have been measured while the machine was busy. It is measured again for a row
    above it. An implementation of reduced precision multiplies in bfloat16, whatever its inputs
    are.
    """
    limit = settings.matmul_tflops.get(case.dtype)
    if not roofline.implausible(tflops, limit):
        return limit
    assert limit is not None
    reduced = seen.implementation in case.attention.info.reduced_precision
    dtypes = [case.dtype, *(["bfloat16"] if reduced else [])]
    again = roofline.measure(torch.device(case.device), dtypes)
    return max(limit, *(rate or 0.0 for rate in again["matmul_tflops"].values()))
