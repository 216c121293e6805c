"""The file of declarations of variants for reports: reading the registry would import torch."""

from __future__ import annotations

import json
import re

from reports.cost_orders import exponent
from reports.documents.docstrings import costs
from variants import REGISTRY, create, hyperparameters
from variants.contract.registry import default_knob, reference_attention

FILE = "reports/declared.json"


def text() -> str:
    """The file."""
    reference = reference_attention()
    declared: dict[str, object] = {
        "exact_variant": reference.info.name,
        "reference_implementation": reference.implementation,
    }
    for word in ("libraries", "reduced_precision"):
        declared[word] = sorted(
            f"{name}/{implementation}"
            for name, cls in REGISTRY.items()
            for implementation in getattr(cls.info, word)
        )
    declared["targets"] = {
        words: target for name in sorted(REGISTRY) for words, target in _targets(name).items()
    }
    declared["knobs"] = {name: default_knob(name) for name in sorted(REGISTRY)}
    declared["costs"] = {name: _costs(name) for name in sorted(REGISTRY)}
    return json.dumps(declared, indent=2, ensure_ascii=False) + "\n"


def _targets(name: str) -> dict[str, str]:
    """The target of a variant by its name, and by `name hyperparameter=value` for each flag and
    each choice that changes it."""
    default = create(name)
    found = {name: default.target}
    for one in hyperparameters(name):
        for value in one.choices or ((True, False) if one.type is bool else ()):
            target = create(name, **{one.name: value}).target
            if target != default.target:
                found[f"{name} {one.name}={value}"] = target
    return found


def _costs(name: str) -> dict[str, object]:
    """Time and memory of a variant, and the arguments that their letters stand for."""
    info = REGISTRY[name].info
    for cost in (info.time, info.memory):
        exponent(cost, (1024, 4096), {})  # raises ValueError for a cost that reports cannot read
    letters = dict(re.findall(r"\b(\w) = (\w+)", costs(name)))
    return {"time": info.time, "memory": info.memory, "letters": letters}
