"""The commands of `python -m bench`."""

from __future__ import annotations

import click

from bench.cli.deferred import DeferredCommand
from bench.schema.entry_point import CommandLine


@click.group(cls=CommandLine)
def main() -> None:
    """Measure the time, the memory and the error of attention methods.

    Start with `python -m bench run`: it measures the default sweep of this machine.
    """


for _name, _place in {
    "bisect": "bench.cli.bisect_command:bisect",
    "capture": "bench.cli.capture_command:capture",
    "compare": "bench.cli.compare_command:compare",
    "counts": "bench.cli.counts_command:counts",
    "export": "bench.cli.export_command:export",
    "gpu-check": "bench.cli.gpu_check_command:gpu_check",
    "launches": "bench.cli.launch_command:launches",
    "list": "bench.cli.list_command:list_",
    "merge": "bench.cli.merge_command:merge",
    "model": "bench.cli.model_command:model",
    "plan": "bench.cli.plan_command:plan",
    "run": "bench.cli.run_command:run",
    "selfcheck": "bench.cli.selfcheck_command:selfcheck_command",
    "train": "bench.cli.train_command:train",
}.items():
    main.add_command(DeferredCommand(_name, _place))
