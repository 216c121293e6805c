"""The inputs and the mask of a sweep that consists of `--set` axes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench import inputs
from bench.plan.sweep import COUNTS, IF_POSSIBLE, Sweep
from variants.contract.registry import reference_attention

REAL = "smollm2"
LONGER = "sinks effective_keys=32"  # the attention of a middle layer of the model
OTHER_SHAPE = "sinks"


def with_real_inputs(sweep: Sweep, device: str) -> tuple[Sweep, str]:
    """A copy that is causal where a method can be and has real inputs where they have the shape.

    Axes that the sweep has are kept. Lengths beyond the capture get synthetic inputs that are like
    a middle layer of the model.

    Args:
        sweep: one group of axes, with the axis seq_len.
        device: cpu or cuda.

    Returns:
        The copy, and a sentence about lengths that got synthetic inputs; empty if there are none.
    """
    (group,) = sweep.groups
    group = {"causal": (IF_POSSIBLE,), **group}
    if "inputs" in group:
        return dataclasses.replace(sweep, groups=(group,)), ""
    lengths: dict[str, list[int]] = {}
    said = []
    for length in group["seq_len"]:
        name, why = _inputs(group, length, device)
        if why and name not in lengths:
            said.append(f"inputs {name}, because {why}")
        lengths.setdefault(name, []).append(length)
    groups = tuple(
        {**group, "seq_len": tuple(found), "inputs": (name,)} for name, found in lengths.items()
    )
    sentence = f"{'; '.join(said)}; --set inputs=... selects others" if said else ""
    return dataclasses.replace(sweep, groups=groups), sentence


def _inputs(group: Mapping[str, tuple[Any, ...]], length: int, device: str) -> tuple[str, str]:
    """The inputs of a length, and why they are not real."""
    shape = {axis: group[axis] for axis in (*COUNTS, "layer") if axis in group}
    exact = (reference_attention().info.name,)
    axes = {**shape, "seq_len": (length,), "inputs": (REAL,), "variant": exact}
    capture = inputs.open_capture(REAL, {})
    assert capture is not None
    for case in Sweep("shapes", (axes,)).cases(device, {}):
        if max(case.seq_len, case.key_len) > capture.tokens:
            return LONGER, f"{REAL} holds {capture.tokens} tokens"
        if why := inputs.refusal(case, {}):
            return OTHER_SHAPE, why
    return REAL, ""
