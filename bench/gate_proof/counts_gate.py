"""Runs the deterministic gate on a copy of the sources."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.time_gate.revisions import ROOT

SEQ_LEN = 320  # of the cases that are counted


@dataclass(frozen=True)
class CountsRun:
    """The answer of `python -m bench counts`.

    Attributes:
        status: the exit status.
        said: the sentences of each case that differs, by its name.
        text: all that it wrote.
    """

    status: int
    said: dict[str, list[str]]
    text: str

    def about(self, case: str) -> list[str]:
        """The sentences of the case whose name begins with a text."""
        return [
            one for name, own in self.said.items() if name.startswith(f"{case} n=") for one in own
        ]


def counts(folder: Path, file: Path, patterns: Sequence[str], *, update: bool = False) -> CountsRun:
    """Count the cases of some patterns with the variants of a folder.

    Args:
        folder: a copy of the sources.
        file: the file of counts.
        patterns: as in the option `--case`.
        update: write the file.
    """
    words = [f"--case={pattern}" for pattern in patterns] + ["--update"] * update
    found = subprocess.run(
        [sys.executable, "-P", "-m", "bench", "counts", str(file), *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return CountsRun(found.returncode, sentences(found.stdout), found.stdout + found.stderr)


def sentences(text: str) -> dict[str, list[str]]:
    """The sentences that are indented under the name of each case."""
    said: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("  "):
            said.setdefault(name, []).append(line.strip())
        name = name if line.startswith("  ") else line
    return said
