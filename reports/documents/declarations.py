"""The file of declarations of variants for reports: reading the registry would import torch."""

from __future__ import annotations

import json
import re

from reports.cost_orders import exponent
from reports.documents.docstrings import costs
from variants import REGISTRY
from variants.contract.registry import reference_attention

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
    declared["costs"] = {name: _costs(name) for name in sorted(REGISTRY)}
    return json.dumps(declared, indent=2, ensure_ascii=False) + "\n"


def _costs(name: str) -> dict[str, object]:
    """Time and memory of a variant, and the arguments that their letters stand for."""
    info = REGISTRY[name].info
    for cost in (info.time, info.memory):
        exponent(cost, (1024, 4096), {})  # raises ValueError for a cost that reports cannot read
    letters = dict(re.findall(r"\b(\w) = (\w+)", costs(name)))
    return {"time": info.time, "memory": info.memory, "letters": letters}
