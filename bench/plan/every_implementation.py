"""The cases of a sweep with each implementation that runs on a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from bench.schema.case import Case
from bench.workloads.attention import decode_steps
from variants import UnsupportedError
from variants.contract.checks import require


def every_implementation(cases: Iterable[Case], device: torch.device) -> list[Case]:
    """Each case with each implementation that computes it on the device.

    Implementations that only call a public kernel are left out: its code is not in this project.
    """
    every = (one for case in cases for one in implementations_of(case))
    return [one for one in dict.fromkeys(every) if _runs(one, device)]


def implementations_of(case: Case) -> Iterator[Case]:
    """The case with `auto` and with each implementation, also those that cannot run here."""
    for name in ("auto", *case.attention.info.implementations):
        yield replace(case, attention=replace(case.attention, implementation=name))


def _runs(case: Case, device: torch.device) -> bool:
    attention = case.attention
    is_public = attention.implementation in attention.info.libraries
    if is_public or attention.cannot_run(device) or attention.differs:
        return False
    try:
        if case.direction == "forward_backward":
            require(attention, "backward")
        if case.direction == "decode":
            require(attention, "step")
            decode_steps.check(attention, case)
    except UnsupportedError:
        return False
    return True
