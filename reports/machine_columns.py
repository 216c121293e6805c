"""The machines of rows: their names in figures and tables, and their environments.

Machines of one kind have one name and are shown as one machine. Machines of different kinds have
different names, and `machine` is fixed on every line, in every panel and in every ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.schema.machine_kind import kind, machine_of

Environment = Mapping[str, Any]
Run = tuple[pd.DataFrame, Environment]  # the rows of a run, and its environment.json
OF_RUN = ("sweep", "model")  # parts that only the first machine of a run has
SELFCHECKS = "selfchecks"


def machine_name(machine: Environment, device: str) -> str:
    """The device, and its hardware if the environment names it."""
    hardware = machine.get("hardware", {})
    if device != "cpu":
        name = hardware.get("gpu")
        return f"{device}, {name}" if name else device
    parts = [device]
    if processor := hardware.get("processor"):
        parts.append(processor)
    if threads := hardware.get("threads"):
        parts.append(_fact("threads", threads))
    return ", ".join(parts)


def allocator(machine: Environment) -> str:
    """`kept` if the C library keeps freed memory between calls, else `default`."""
    settings = machine.get("settings", {})
    return "kept" if settings.get("MALLOC_MMAP_MAX_") == "0" else "default"


def with_hardware(runs: Sequence[Run]) -> list[Run]:
    """Add the columns `hardware`, the name of a row's machine, and `allocator`.

    The name has the facts by which kinds of machines differ that would have the same name without
    them, as in `cpu, Some CPU, 2 threads, 4 cores`.
    """
    seen = [
        {key: machine_of(env, key[0]) for key in zip(frame["host"], frame["device"], strict=True)}
        for frame, env in runs
    ]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for machines in seen:
        for (_, device), machine in machines.items():
            kinds.setdefault(machine_name(machine, device), []).append(kind(machine))
    result = []
    for (frame, env), machines in zip(runs, seen, strict=True):
        names = {
            key: _full_name(machine_name(machine, key[1]), machine, kinds)
            for key, machine in machines.items()
        }
        settings = {key: allocator(machine) for key, machine in machines.items()}
        keys = list(zip(frame["host"], frame["device"], strict=True))
        result.append(
            (
                frame.assign(
                    hardware=[names[key] for key in keys],
                    allocator=[settings[key] for key in keys],
                ),
                env,
            )
        )
    return result


def environments(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The environment of each value of the column `machine`.

    It is that of the last machine with this name, with the selfchecks of all of them by host.
    """
    found: dict[str, dict[str, Any]] = {}
    for frame, env in runs:
        checks = env.get(SELFCHECKS, {})
        for name, host in frame[["machine", "host"]].drop_duplicates().itertuples(index=False):
            own = {part: env[part] for part in OF_RUN if part in env} | dict(machine_of(env, host))
            own.pop("machines", None)
            known = {host: checks[host]} if host in checks else {}
            if not host:
                known = checks
            own[SELFCHECKS] = {**found.get(name, {}).get(SELFCHECKS, {}), **known}
            found[name] = own
    return found


def _full_name(
    name: str, machine: Environment, kinds: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    facts = kind(machine)
    varying = [fact for fact in facts if any(other[fact] != facts[fact] for other in kinds[name])]
    return ", ".join([name, *(_fact(fact, facts[fact]) for fact in varying)])


def _fact(name: str, value: Any) -> str:
    match name:
        case "cores" | "threads" if value is not None:
            return f"{value} {name if value != 1 else name.removesuffix('s')}"
        case "processor" | "gpu" if value is not None:
            return str(value)
        case "OpenMP":
            return value or "no settings of OpenMP"
    return f"{name} {'unknown' if value is None else value}"
