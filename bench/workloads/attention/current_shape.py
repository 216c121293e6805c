"""Keeps the inputs and the baselines of one shape between the cases of a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from bench.instruments import cuda_graph
from bench.instruments.disturbance import Disturbance, threads_for
from bench.schema.case import Case
from bench.workloads.attention.exact_baselines import measure_baselines
from bench.workloads.attention.given_inputs import Given, Settings
from bench.workloads.attention.observe import Seen


@dataclass(frozen=True)
class MeasuredShape:
    """The inputs of a shape, and its exact baselines by implementation."""

    case: Case  # the first case of this shape
    given: Given
    exact: Mapping[str, Seen] = field(default_factory=dict)
    disturbed: str = ""  # what disturbed the baselines


_current: list[MeasuredShape] = []  # at most one


def enter(case: Case, settings: Settings, *, exact: bool) -> MeasuredShape:
    """The shape of a case. Inputs are loaded and baselines are measured when the shape changes."""
    cuda_graph.refuse(case)
    if not _current or _current[0].case.shape != case.shape:
        last = _current[0] if _current else None
        _current.clear()
        same_inputs = last is not None and _inputs_key(last.case) == _inputs_key(case)
        given = last.given if last and same_inputs else Given.load(case, settings.files)
        watch = Disturbance(threads_for(torch.device(case.device)))
        watch.begin()
        found = measure_baselines(case, given, settings) if exact else {}
        disturbed = watch.end()
        _current.append(MeasuredShape(case, given, found, disturbed if exact else ""))
    return _current[0]


def forget() -> None:
    """Drop the current shape."""
    _current.clear()


def _inputs_key(case: Case) -> tuple[object, ...]:
    """The fields that inputs and exact outputs depend on; they depend neither on a backward pass
    nor on the launch."""
    same = replace(case, launch="eager")
    if case.direction == "forward_backward":
        same = replace(same, direction="forward")
    return same.shape
