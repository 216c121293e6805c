"""Runs a workload from the command line: signals stop it with a sentence and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from bench.loop.interrupts import Stopped, stopped_by_signals
from bench.loop.journal import begun

Result = TypeVar("Result")


def until_stopped(run: Callable[[], Result], folder: Path, command: str) -> Result:
    """The result of `run`; if a signal stops it, the process ends with the status of the signal
    after a sentence on how to continue."""
    try:
        with stopped_by_signals():
            return run()
    except KeyboardInterrupt as stop:
        has_rows = begun(folder)
        hint = f"continue with: python -m bench {command} --resume {folder}"
        click.echo(f"stopped; {hint if has_rows else 'nothing measured'}", err=True)
        sys.exit(stop.exit_status if isinstance(stop, Stopped) else 130)
