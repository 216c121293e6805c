"""The machine of a row, and the facts that its times depend on.

Machines with the same facts are of one kind; only their times are compared with each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bench.schema.validation import shown

HARDWARE = ("processor", "cores", "threads", "gpu")
SOFTWARE = ("python", "torch", "triton", "cuda")
OPENMP = ("OMP_", "GOMP_", "KMP_", "MKL_")
MALLOC = ("MALLOC_", "GLIBC_TUNABLES")
THREADS = "OMP_NUM_THREADS"  # `threads` has the number that is used
Facts = Mapping[str, Any]


def machine_of(environment: Facts, host: str) -> Facts:
    """The part of environment.json that describes the machine with this pseudonym.

    It is the first machine of the run if there are no others, as in older runs, or if the row has
    no pseudonym.
    """
    return environment.get("machines", {}).get(host, environment)


def hardware(machine: Facts) -> dict[str, Any]:
    """The facts about the hardware of a machine; None for those that are not known."""
    return {name: machine.get("hardware", {}).get(name) for name in HARDWARE}


def installation(machine: Facts) -> dict[str, Any]:
    """The facts about the software of a machine, and its settings of OpenMP as text."""
    software = {name: machine.get("software", {}).get(name) for name in SOFTWARE}
    return {**software, "OpenMP": _settings(machine, OPENMP)}


def kind(machine: Facts) -> dict[str, Any]:
    """All facts that make times comparable, except the settings of the memory allocator."""
    return {**hardware(machine), **installation(machine)}


def machine_id(machine: Facts) -> str:
    """A pseudonym of the hardware of a machine: the same for all machines with the same facts."""
    return f"machine-{digest(json.dumps(hardware(machine), sort_keys=True))}"


def fingerprint(machine: Facts) -> str:
    """Ten hexadecimal digits that are the same for all machines whose times can be compared: the
    same hardware, threads, software, and settings of OpenMP and of the memory allocator."""
    return digest(json.dumps({**kind(machine), "memory allocator": _allocator(machine)}))


def digest(text: str) -> str:
    """Ten hexadecimal digits from which the text cannot be found."""
    return hashlib.sha256(f"attention benchmark {text}".encode()).hexdigest()[:10]


def hardware_differences(before: Facts, after: Facts) -> list[str]:
    """A text for each fact about the hardware that differs between two machines."""
    return _differences(hardware(before), hardware(after))


def installation_differences(before: Facts, after: Facts) -> list[str]:
    """A text for each difference of software, or of the settings of OpenMP and the allocator."""
    first, second = (
        {**installation(machine), "memory allocator": _allocator(machine)}
        for machine in (before, after)
    )
    return _differences(first, second)


def differences(before: Facts, after: Facts) -> list[str]:
    """A text for each fact of the fingerprint that differs between two machines."""
    return hardware_differences(before, after) + installation_differences(before, after)


def _allocator(machine: Facts) -> str:
    """The settings of the memory allocator, and its library if it is not that of the C library."""
    library = machine.get("process", {}).get("allocator", {}).get("library", "libc")
    return " ".join(filter(None, (library.removeprefix("libc"), _settings(machine, MALLOC))))


def _settings(machine: Facts, prefixes: tuple[str, ...]) -> str:
    settings = machine.get("settings", {})
    return " ".join(
        f"{name}={settings[name]}"
        for name in sorted(settings)
        if name.startswith(prefixes) and name != THREADS
    )


def _differences(before: Facts, after: Facts) -> list[str]:
    return [
        f"{name} was {shown(was)} and is {shown(after[name])}"
        for name, was in before.items()
        if was != after[name]
    ]
