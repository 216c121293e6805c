"""The file of declarations of variants for reports: reading the registry would import torch."""

from __future__ import annotations

import json

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
    return json.dumps(declared, indent=2) + "\n"
