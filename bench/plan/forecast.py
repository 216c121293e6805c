"""Predicts the least time of a case, from the same case at shorter lengths."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from bench.instruments import clock
from bench.instruments.accuracy.errors import SEEDS
from bench.instruments.work import useful_flops
from bench.schema.case import Case
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from variants import Attention
from variants.contract.registry import reference_attention

BASELINES = (
    3  # factor on the timeout of a case for the exact baselines, as one call measures several
)
COUNTED = 1 << 22  # tokens of the longest sequence whose pairs are counted before it is measured
# Calls of any case: the first one, the timed ones, the last one, and two to measure memory.
LEAST_CALLS = clock.MINIMUM_SAMPLES + 4
SLOWER = (
    2.0  # times the time of exact attention; a larger factor is not explained by noise or overhead
)


def failed_shorter(case: Case, results: Mapping[str, Measurement]) -> Measurement | None:
    """The row of the same case at a smaller length that ran out of memory or time, or None."""
    for row in results.values():
        if (
            row.status in (Status.OUT_OF_MEMORY, Status.TIMEOUT)
            and row.case.seq_len <= case.seq_len
            and row.case.key_len <= case.key_len
            and row.case.without_lengths() == case.without_lengths()
        ):
            return row
    return None


def hopeless(case: Case, results: Mapping[str, Measurement], timeout: float) -> str:
    """Why a case cannot end within `timeout` seconds, in one sentence; empty if it may.

    The prediction is a lower bound. With two shorter lengths, the time is assumed to grow with the
    same exponent as between them, which is a lower bound for a sum of powers; but not faster than
    the operations that the method cannot avoid, as these grow more slowly once a sequence is longer
    than a window. With one shorter length, or if the operations are not known, the time is assumed
    to grow in proportion to the length.
    """
    shorter = sorted(
        (
            row
            for row in results.values()
            if row.status is Status.OK
            and row.case.seq_len == row.case.key_len < case.seq_len == case.key_len
            and row.case.without_lengths() == case.without_lengths()
        ),
        key=lambda row: row.case.seq_len,
    )[-2:]
    if not shorter:
        return ""
    last = shorter[-1]
    growth = longer = case.seq_len / last.case.seq_len
    if len(shorter) == 2:
        growth = min(longer ** _exponent(*shorter), _operations(case, last.case) or longer)
    calls = least_calls(case)
    seconds = calls * growth * _seconds(last)
    if seconds <= timeout:
        return ""
    told = " and ".join(f"{_seconds(row):.2g} s at seq_len {row.case.seq_len}" for row in shorter)
    return (
        f"{calls} calls would take at least {seconds:.2g} s, and {timeout:g} s are allowed: "
        f"a call took {told}"
    )


def least_calls(case: Case) -> int:
    """The calls that a case makes at least: `LEAST_CALLS`, calls with other seeds, and for a
    backward pass one for the errors of the gradients and one for the bytes that are saved."""
    seeded = "seed" in vars(case.attention) and case.direction != "decode"
    more = 2 if case.direction == "forward_backward" else 0
    return LEAST_CALLS + (SEEDS - 1 if seeded else 0) + more


def slower_than_exact(case: Case, results: Mapping[str, Measurement], seconds: float) -> str:
    """Why a call of a method that is slower than exact attention is expected to take more than
    `seconds`, in one sentence; empty if it is not.

    The prediction uses the longest of the shorter lengths, with any inputs, mask and dtype. The
    method must take more than twice the time of exact attention there, and its operations must grow
    as fast with the length.
    """
    shorter = [
        row
        for row in results.values()
        if row.status is Status.OK
        and row.case.seq_len == row.case.key_len < case.seq_len == case.key_len
        and row.speedup_vs_exact is not None
        and family(row.case) == family(case)
    ]
    if not shorter:
        return ""
    last = max(shorter, key=lambda row: row.case.seq_len)
    assert last.speedup_vs_exact is not None
    slower = 1 / last.speedup_vs_exact
    growth, of_exact = _operations(case, last.case), _growth(reference_attention(), case, last.case)
    if slower < SLOWER or growth is None or of_exact is None or growth < 0.75 * of_exact:
        return ""
    expected = growth * _seconds(last)
    if expected <= seconds:
        return ""
    return (
        f"at seq_len {last.case.seq_len} a call took {_seconds(last):.2g} s, {slower:.2g} times as "
        f"long as exact attention, and its operations grow as fast: about {expected:.2g} s a call, "
        f"and {seconds:g} s are allowed for a method slower than exact attention"
    )


def exact_out_of_reach(case: Case, matmul_tflops: float | None, seconds: float) -> str:
    """Why exact attention of this shape cannot be measured within `seconds`, in one sentence; empty
    if it may.

    It cannot if its operations take longer even at the measured matmul rate of the machine.
    """
    flops = useful_flops(reference_attention(), case)
    if not matmul_tflops or flops is None:
        return ""
    least = LEAST_CALLS * flops / (1e12 * matmul_tflops)
    if least <= seconds:
        return ""
    return (
        f"{LEAST_CALLS} calls of exact attention would take at least {least:.2g} s at the whole "
        f"matmul rate of {matmul_tflops:.3g} TFLOP/s, and {seconds:g} s are allowed"
    )


def _seconds(row: Measurement) -> float:
    """The time of the fastest call, so that a busy machine does not change the prediction."""
    least = row.time_ms_min if row.time_ms_min is not None else row.time_ms_median
    assert least is not None
    return least / 1e3


def _exponent(short: Measurement, long: Measurement) -> float:
    return math.log(_seconds(long) / _seconds(short)) / math.log(
        long.case.seq_len / short.case.seq_len
    )


def family(case: Case) -> Case:
    """The case without lengths, inputs, mask and dtype: cases with the same result are those from
    which the speed of each other is predicted."""
    return dataclasses.replace(
        case.without_lengths(), inputs="", layer=None, seed=0, causal=False, dtype=""
    )


def operations_of(attention: Attention, case: Case) -> float | None:
    """`useful_flops`, or None for a sequence so long that counting its pairs takes much memory."""
    if not attention.info.is_exact and max(case.seq_len, case.key_len) > COUNTED:
        return None
    return useful_flops(attention, case)


def _operations(case: Case, shorter: Case) -> float | None:
    """The operations of a case divided by those of a shorter one; None if not known."""
    return _growth(case.attention, case, shorter)


def _growth(attention: Attention, case: Case, shorter: Case) -> float | None:
    counts = [operations_of(attention, c) for c in (case, shorter)]
    return counts[0] / counts[1] if counts[0] and counts[1] else None
