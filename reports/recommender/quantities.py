"""Reads sizes and times that people write: `8GiB`, `500MB`, `5ms`, `2s`."""

from __future__ import annotations

import re
from collections.abc import Mapping

BYTES = {
    "b": 1,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4}


def bytes_of(text: str) -> float | None:
    """The bytes of a text such as `8GiB`, `500MB` or `1048576`; None for other texts."""
    return _scaled(text, BYTES, default="b")


def milliseconds_of(text: str) -> float | None:
    """The milliseconds of a text such as `5ms`, `2s` or `80 us`; None for other texts."""
    return _scaled(text, MILLISECONDS)


def _scaled(text: str, units: Mapping[str, float], default: str = "") -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]*)", text.strip().lower())
    unit = (found[2] or default) if found else ""
    if found is None or unit not in units or not (number := float(found[1])) > 0:
        return None
    return number * units[unit]
