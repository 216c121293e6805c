"""Sides of the time gate without a process, and repositories of git with a fake package.

A variant of the fake package is a file with its time: `COST = 2.0` milliseconds.
"""

from __future__ import annotations

import math
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors.torch import save_file

from bench.cli import revision_gate
from bench.time_gate import gate, gate_cases, unmeasured_cases
from bench.time_gate.side import Side, SideError

Fault = Callable[["FakeSide", str, str], None]  # takes the side, the request and the variant


def no_fault(side: FakeSide, request: str, variant: str) -> None:
    """All requests succeed."""


@dataclass
class Machine:
    """Makes fake sides.

    Attributes:
        noise: standard deviation of the logarithm of the time of a case in one process.
        fault: called before each answer; it may raise SideError.
        started: the sources of all processes.
        prepared: the variants that were prepared, once for each side and round.
    """

    noise: float = 0.004
    fault: Fault = no_fault
    random: random.Random = field(default_factory=lambda: random.Random(1))
    started: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)

    def side(self, sources: Path, threads: int, *, name: str = "") -> FakeSide:
        return FakeSide(self, sources, name)


def fake_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose sides replace those of the time gate."""
    machine = Machine()
    monkeypatch.setattr(gate_cases, "every_implementation", lambda cases, _: cases)
    for module in (gate, revision_gate, unmeasured_cases):
        monkeypatch.setattr(module, "Side", machine.side)
    return machine


class FakeSide(Side):
    """Answers as a worker with the fake package of a folder."""

    def __init__(self, machine: Machine, sources: Path, name: str) -> None:
        self._name = name
        self.sources = sources
        self._machine = machine
        self._variant = ""
        self._ns = 0.0

    def started(self) -> None:
        root = (self.sources / "variants" / "__init__.py").read_text()
        if "raise" in root:
            raise SideError(f"the process ended with status 1: {root.strip()}")
        self._machine.started.append(self.sources.name)

    def _asked(self, request: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        if request == "missing":
            return {"why": "" if self._cost(arguments["attention"]) else "unknown variant"}
        if request == "names":
            self._machine.fault(self, request, "")
            known = gate_cases.names_of(**arguments)
            return {"names": [name for name in known if self._has(name.split()[0])]}
        if request == "prepare":
            self._variant = arguments["case"]["attention"].split()[0]
            self._machine.fault(self, request, self._variant)
            if not (cost := self._cost(self._variant)):
                return {"missing": "unknown variant"}
            self._machine.prepared.append(self._variant)
            noise = math.exp(self._machine.random.gauss(0, self._machine.noise))
            self._ns = cost * 1e6 * noise
            return {}
        self._machine.fault(self, request, self._variant)
        if request == "facts":
            save_file({"output": torch.ones(2)}, arguments["file"])
            return {"peak_bytes": 1000}
        assert request == "time"
        return {"ns": self._ns * arguments["calls"]}

    def _has(self, variant: str) -> bool:
        return (self.sources / "variants" / f"{variant}.py").exists()

    def _cost(self, attention: str) -> float | None:
        """Milliseconds of a variant; None if the folder lacks it."""
        file = self.sources / "variants" / f"{attention.split()[0]}.py"
        if not self._has(file.stem):
            return None
        if not (found := re.search(r"COST = ([\d.]+)", file.read_text())):
            raise SideError("SyntaxError: invalid syntax")
        return float(found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Repository:
    """A repository of git with the fake package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "variants").mkdir(parents=True)
        (folder / "pyproject.toml").write_text('[project]\nname = "fake"\n')
        (folder / "variants" / "__init__.py").write_text("")
        self.git("init", "--quiet", "--initial-branch=main")

    def write(self, **files: str | float) -> None:
        """Write modules of the package: a text, or the milliseconds of a variant."""
        for name, content in files.items():
            text = content if isinstance(content, str) else f"COST = {content}\n"
            (self.folder / "variants" / f"{name}.py").write_text(text)

    def commit(self, subject: str, **files: str | float) -> str:
        """Write modules and commit everything; returns the id of the commit."""
        self.write(**files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def git(self, *words: str) -> str:
        """Run git; returns its output."""
        settings = ("-c", "user.name=Some One", "-c", "user.email=one@example.org")
        settings += ("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null")
        done = subprocess.run(
            ["git", *settings, *words], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
