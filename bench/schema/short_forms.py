"""Reads short forms that people write: `bf16` for bfloat16, `8k` for 8192."""

from __future__ import annotations

import re

SHORT_DTYPES = {
    "fp64": "float64",
    "f64": "float64",
    "double": "float64",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
}
FACTORS = {"": 1, "k": 2**10, "m": 2**20}


def whole_dtype(text: str) -> str:
    """The name of the dtype that a short form means; any other text as it is."""
    return SHORT_DTYPES.get(text.strip().lower(), text)


def whole_number(text: str) -> int | None:
    """The number of a text such as `4096`, `8k` (8192) or `1M` (1048576); None for other texts."""
    found = re.fullmatch(r"(\d{1,19})([km]?)", text.strip().lower())
    return int(found[1]) * FACTORS[found[2]] if found else None
