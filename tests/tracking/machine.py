"""The machine on which the benchmarks run, without names of users, hosts or paths."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

import variants
from bench.instruments import c_memory, environment
from bench.schema.machine_kind import fingerprint
from bench.schema.tracking_file import SCHEMA

PARTS = ("hardware", "software", "settings", "process")  # of environment.json

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare() -> None:
    """Set up this process like the worker of a run."""
    if DEVICE.type == "cpu":
        c_memory.fix_thresholds()
        variants.choose_float32_route()


@cache
def _present() -> dict[str, Any]:
    return environment.describe(DEVICE)


def machine_info() -> dict[str, Any]:
    """The description of the machine in a stored file. It has the parts of environment.json that
    `bench.schema.machine_kind` compares."""
    described = {part: dict(_present()[part]) for part in PARTS}
    described["software"].pop("commit")  # commit_info has it
    return {"schema": SCHEMA, "fingerprint": fingerprint(described), **described}


def folder_name() -> str:
    """The name of the folder for runs of machines with this fingerprint."""
    hardware = _present()["hardware"]
    words = str(hardware["gpu"] or hardware["processor"]).lower().split()
    plain = ["".join(c for c in word if c.isalnum()) for word in words]
    return "-".join([*filter(None, plain), fingerprint(machine_info())])
