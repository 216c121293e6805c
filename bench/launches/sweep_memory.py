"""The memory that a case of a sweep needs on a GPU, before it is measured."""

from __future__ import annotations

from dataclasses import replace

from bench.launches.simulation import FORWARD, FORWARD_BACKWARD, simulate
from bench.launches.sweep_time import refuses, shape_of
from bench.schema.case import Case

FLUSH_BYTES = 100 << 20  # the buffer that empties the cache between samples


def bytes_of(case: Case, *, most_launches: int | None = None) -> int | None:
    """Bytes of the timed call: inputs, kept tensors, the peak of the call, and the buffer of the
    timer. None if the variant refuses the case.

    Exact rows and definitions in float64 are separate: they are computed on sampled rows before and
    after the call.

    Args:
        most_launches: stop the simulation there. A call with a loop has reached its peak then, if
            the first turns of the loop need as much memory as the others.
    """
    attention = case.attention
    if attention.implementation in attention.info.libraries:
        attention = replace(attention, implementation="auto")
    if refuses(attention, case):
        return None
    backward = case.direction == FORWARD_BACKWARD
    work = simulate(
        attention,
        replace(shape_of(case), seq_len=case.seq_len),
        FORWARD_BACKWARD if backward else FORWARD,
        most_launches=most_launches,
    )
    return work.input_bytes + work.kept_bytes + work.peak_bytes + FLUSH_BYTES
