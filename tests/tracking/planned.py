"""The cases of `make track`, by names that stay the same when other cases come or go."""

from __future__ import annotations

from pathlib import Path

import variants
from bench.plan import sweep
from bench.plan.every_implementation import implementations_of
from bench.schema.case import Case
from bench.workloads.attention.decode_steps import stepped_by

FILES = {"cpu": "cpu.toml", "cuda": "gpu.toml"}


def planned(device: str) -> dict[str, Case]:
    """The cases of a device by name; those of one shape follow each other.

    Each attention is there with the implementation `auto` and with each of its implementations,
    also those that cannot run here.
    """
    found: dict[str, Case] = {}
    for case in sweep.read(Path(__file__).with_name(FILES[device])).cases(device, {}):
        for one in implementations_of(case):
            if case.direction == "decode" and one.attention.implementation not in stepped_by():
                continue
            name = name_of(one)
            if found.setdefault(name, one) != one:
                raise ValueError(f"two cases have the name {name}: {found[name]} and {one}")
    return found


def name_of(case: Case) -> str:
    """The name of a case: variant, implementation unless it is `auto`, hyperparameters that are not
    at their defaults, direction, and length."""
    attention = case.attention
    own = attention.hyperparameters.split()
    defaults = variants.create(case.variant).hyperparameters.split()
    parts = [case.variant]
    if attention.implementation != "auto":
        parts[0] += f"/{attention.implementation}"
    # An expression of `-k` may have a colon, and no equals sign.
    parts += [setting.replace("=", ":") for setting in own if setting not in defaults]
    return "-".join([*parts, case.direction, str(case.seq_len)])


def group_of(case: Case) -> str:
    """The name of the cases whose times are shown in one table."""
    return f"{case.direction} n={case.seq_len}"
