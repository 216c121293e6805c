"""The calls that measure a case of a sweep. They run in a worker process, which may die."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import torch

from bench.instruments import cuda_graph
from bench.instruments.disturbance import Disturbance, threads_for
from bench.schema.case import Case
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.attention import decode_steps
from bench.workloads.attention.case_row import row_of
from bench.workloads.attention.current_shape import enter
from bench.workloads.attention.given_inputs import Settings
from bench.workloads.attention.observe import observe
from bench.workloads.attention.timed_call import used_implementation
from bench.workloads.failure import failure
from bench.workloads.guarded import guarded
from variants import UnsupportedError
from variants.contract.checks import require


def measure_exact(case: Case, settings: Settings) -> None:
    """Measure the exact baselines of a case's shape, for all following cases of this shape.

    This is a separate call with its own timeout, so that other cases are measured even if exact
    attention is too slow.
    """
    try:
        enter(case, settings, exact=True)
    except BaseException as error:  # the cases raise it too, and report it in their rows
        print(f"no exact baseline: {failure(error, settings.files)[1]}", file=sys.stderr)


def measure(case: Case, settings: Settings, exact: bool = True) -> tuple[Measurement, Raw]:
    """Measure a case. Returns its row and the raw data; every exception becomes a row.

    With `exact`, the baselines of its shape are measured first, unless they are there already.
    Without `exact`, the row has no numbers relative to exact attention.
    """
    row, raw = guarded(
        lambda: _measure(case, settings, exact), partial(Measurement.of, case), settings.files
    )
    return row, replace(raw, spoiled=raw.spoiled or cuda_graph.spoiled())


def _measure(case: Case, settings: Settings, exact: bool) -> tuple[Measurement, Raw]:
    attention = case.attention
    if reason := attention.cannot_run(torch.device(case.device)):
        raise UnsupportedError(reason)
    if case.direction == "forward_backward":
        require(attention, "backward")
    if case.direction == "decode":
        require(attention, "step")
        decode_steps.check(attention, case)
    shape = enter(case, settings, exact=exact)
    used = used_implementation(attention, case, shape.given.inputs)
    is_baseline = attention.info.is_exact and used in shape.exact
    watch = Disturbance(threads_for(torch.device(case.device)))
    watch.begin()
    seen = shape.exact[used] if is_baseline else observe(attention, case, shape.given, settings)
    own = "" if is_baseline else watch.end()
    of_exact = f"exact attention: {shape.disturbed}" if shape.disturbed else ""
    row = row_of(case, seen, shape, settings)
    found = "; ".join(filter(None, (row.disturbed, own, of_exact)))
    row = replace(row, disturbed=found if row.status is not Status.INCORRECT else "")
    heads = seen.accuracy.heads if row.status is Status.OK else ()
    return row, Raw(seen.samples.device_ms, heads)
