"""The command line of the benchmark: `python -m bench COMMAND`.

Start with `python -m bench run`; it measures the default sweep of this machine.
"""

from __future__ import annotations

import click

from bench.cli.capture_command import capture
from bench.cli.compare import CompareError, compare
from bench.cli.gpu_check_command import gpu_check
from bench.cli.launch_command import launches
from bench.cli.list_command import list_
from bench.cli.merge_command import merge
from bench.cli.model_command import model
from bench.cli.plan_command import plan
from bench.cli.run_command import run
from bench.cli.selfcheck_command import selfcheck_command
from bench.cli.train_command import train
from bench.inputs import CaptureError
from bench.loop.journal import JournalError
from bench.loop.machines import RunError
from bench.plan.sweep import SweepError
from bench.schema.entry_point import CommandLine
from bench.selfcheck.processes import SelfcheckError
from bench.workloads.model.text import ModelError

ERRORS = (
    SweepError,
    CaptureError,
    RunError,
    JournalError,
    CompareError,
    ModelError,
    SelfcheckError,
)


@click.group(cls=CommandLine, errors=ERRORS, help=__doc__)
def main() -> None:
    pass


for _command in (
    run,
    plan,
    list_,
    compare,
    capture,
    merge,
    model,
    train,
    selfcheck_command,
    launches,
    gpu_check,
):
    main.add_command(_command)
