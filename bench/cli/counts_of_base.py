"""The counts of a revision on this machine, and the changes of them that are intended."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench.cli.gate_command import NotMeasuredError
from bench.cli.revision_gate import scratch_folder
from bench.counts import counts_file
from bench.counts.call_counts import CallCounts
from bench.counts.counts_of_sources import run_counts
from bench.time_gate import revisions
from bench.time_gate.revisions import WORKTREE, Revision


def counted_revision(revision: Revision, patterns: tuple[str, ...]) -> Mapping[str, CallCounts]:
    """The counts of the variants of a revision.

    Raises:
        NotMeasuredError: a call of the revision fails.
    """
    with scratch_folder() as scratch:
        file = scratch / "base.toml"
        revisions.check_out(revision, scratch / "base")
        click.echo(f"counting {revision.label}", err=True)
        done = run_counts(scratch / "base", file, patterns, update=True, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise NotMeasuredError(f"{revision.label} cannot be counted")
        return counts_file.read(file).case


def updated_cases(revision: Revision, file: Path) -> set[str]:
    """The cases whose entries in a file of counts differ from those of the revision.

    There are none if one side has no valid file: then nobody has reviewed a change.
    """
    before, now = (_entries(it, file) for it in (revision, revisions.resolve(WORKTREE)))
    if not (before and now):
        return set()
    return {name for name in {*before, *now} if before.get(name) != now.get(name)}


def _entries(revision: Revision, file: Path) -> Mapping[str, Any]:
    """The tables of the cases; none if there is no such file or it is not valid."""
    try:
        cases = tomllib.loads(revisions.text_of(revision, file) or "").get("case", {})
    except tomllib.TOMLDecodeError:
        return {}
    return cases if isinstance(cases, dict) else {}
