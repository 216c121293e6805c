"""Runs `python -m bench counts` with the variants of a folder and the harness of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.time_gate.revisions import ROOT


def run_counts(
    folder: Path, file: Path, patterns: Sequence[str], *, update: bool, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The finished command.

    Args:
        folder: contains the package `variants`.
        file: the file of counts.
        patterns: as in the option `--case`.
        update: write the file.
        options: of `subprocess.run`.
    """
    words = [f"--case={pattern}" for pattern in patterns] + ["--update"] * update
    return subprocess.run(
        [sys.executable, "-P", "-m", "bench", "counts", str(file), *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        cwd=folder,
        text=True,
        check=False,
        **options,
    )
