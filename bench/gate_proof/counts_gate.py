"""Runs `bench counts` on a copy of the sources, and reads its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.counts.counts_of_sources import run_counts

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
    found = run_counts(folder, file, patterns, update=update, capture_output=True)
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
