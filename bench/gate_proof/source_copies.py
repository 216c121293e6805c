"""Copies of the package `variants`, in which a proof changes kernels."""

from __future__ import annotations

from pathlib import Path

from bench.cli import revision_gate
from bench.time_gate import revisions


class SourceCopies:
    """Copies of the working tree in a folder.

    Attributes:
        folder: contains all copies.
        base: the copy that nobody changes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        revision_gate.build(revisions.resolve(revisions.WORKTREE), self.base)

    def new(self, name: str) -> Path:
        """A further copy."""
        revisions.check_out(revisions.resolve(revisions.WORKTREE), self.folder / name)
        return self.folder / name
