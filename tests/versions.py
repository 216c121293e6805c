"""Versions of other packages: tested (constraints.txt), installed, and allowed (pyproject.toml).

    python -m tests.versions install    the constraints to install by
    python -m tests.versions freeze     constraints.txt, of what is installed
    python -m tests.versions changes    a table of what is installed that constraints.txt has not
    python -m tests.versions oldest     the lower bounds of pyproject.toml, as constraints

The Makefile calls it in new environments, so it needs nothing but Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HEADER = """\
# The versions that were tested together. `make bench` and `make test` install by them.
# `make constraints` writes this file.
"""
# Packages of the environment itself, and packages that a CUDA build of torch pins.
NOT_HELD = re.compile("pip|attention-benchmark|triton|(cuda|nvidia)-.*")

Versions = dict[str, str]


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def public(version: str) -> str:
    """The version without its local part, such as `+cpu`, which names a build."""
    return version.partition("+")[0]


def tested(text: str) -> Versions:
    """The lines of a constraints file."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonical(name): version for name, version in (line.split("==") for line in lines)}


def installed() -> Versions:
    return {canonical(found.name): public(found.version) for found in metadata.distributions()}


def freeze(found: Versions) -> str:
    """A constraints file of these versions."""
    return HEADER + _lines({n: v for n, v in found.items() if not NOT_HELD.fullmatch(n)})


def differing(held: Versions, found: Versions) -> list[str]:
    """Packages that are installed in another version than the tested one."""
    return [
        f"{name} {found[name]} ({held[name]} was tested)"
        for name in sorted(held.keys() & found.keys())
        if found[name] != held[name]
    ]


def changes(held: Versions, found: Versions) -> list[tuple[str, str, str]]:
    """Name, tested version and installed version of the packages where the two differ."""
    names = sorted(n for n in held.keys() | found.keys() if not NOT_HELD.fullmatch(n))
    rows = [(name, held.get(name, "-"), found.get(name, "-")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def to_install(held: Versions, torch: str | None, torch_needs: Iterable[str]) -> Versions:
    """Constraints that keep an installed torch of version `torch`; None if torch is not installed.

    The requirements of an untested torch may contradict the tested versions: 2.11 and 2.12 require
    an older setuptools. pip would then replace torch.
    """
    if torch is None or public(torch) == held["torch"]:
        return held
    free = {"torch", *(name for name, _ in map(_requirement, torch_needs))}
    return {name: version for name, version in held.items() if name not in free}


def lower_bounds(project: Mapping[str, Any], extras: Collection[str]) -> Versions:
    """The lower bounds of the dependencies and some extras in `[project]` of a pyproject.toml."""
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    bounds: Versions = {}
    for name, rest in map(_requirement, wanted):
        bound = re.search(r">=\s*([\w.]+)", rest.partition(";")[0])
        if bound is None:
            raise ValueError(f"pyproject.toml: expected a lower bound, {name}>=...; got {rest!r}")
        bounds[name] = bound[1]
    return bounds


def _requirement(text: str) -> tuple[str, str]:
    """The name of the package, and the rest of the requirement."""
    name = re.match(r"[\w.-]+", text)
    assert name is not None
    return canonical(name[0]), text[name.end() :]


def _lines(versions: Versions) -> str:
    return "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def _main(command: str) -> str:
    if command == "freeze":
        return freeze(installed())
    if command == "oldest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return _lines(lower_bounds(project, project["optional-dependencies"].keys() - {"dev"}))
    held, found = tested((ROOT / "constraints.txt").read_text()), installed()
    if command == "install":
        torch_needs = metadata.requires("torch") or [] if "torch" in found else []
        return _lines(to_install(held, found.get("torch"), torch_needs))
    if command == "changes":
        rows = [("package", "tested", "installed"), *changes(held, found)]
        if len(rows) == 1:
            return "all versions are those of constraints.txt\n"
        return "".join(f"{name:30} {old:20} {new}\n" for name, old, new in rows)
    raise SystemExit(f"expected install, freeze, changes or oldest; got {command!r}")


if __name__ == "__main__":
    sys.stdout.write(_main(*sys.argv[1:]))
