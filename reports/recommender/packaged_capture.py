"""The captured inputs that come with the project, without an import of torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class PackagedCapture:
    """The model of a capture, the tokens that it holds (the model's whole context), its layers."""

    model: str
    tokens: int
    layers: Sequence[int]


@cache
def packaged_capture(inputs: str) -> PackagedCapture | None:
    """The capture of inputs such as `smollm2`; None if the project has none of this name."""
    name = inputs.split()[0]
    file = files("bench") / "inputs" / f"{name}.safetensors"
    if not file.is_file():
        return None
    # The module for captures in `bench` would import torch.
    from safetensors import safe_open

    with safe_open(str(file), "np") as capture:
        facts = capture.metadata()
    return PackagedCapture(name, int(facts["tokens"]), tuple(json.loads(facts["layers"])))
