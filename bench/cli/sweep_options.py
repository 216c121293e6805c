"""The options that choose the cases of a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from bench.cli.options import DEVICES, chosen_device, import_modules
from bench.loop import journal
from bench.plan.default_axes import with_real_inputs
from bench.plan.sweep import Sweep, built_in, read
from bench.workloads.sweep_workload import SweepWorkload

BUILT_IN_SWEEPS = f"Built-in sweeps: {', '.join(built_in())}."  # the last line of a help


def import_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--import`: modules that add implementations."""
    return click.option(
        "--import",
        "modules",
        multiple=True,
        metavar="MODULE",
        help="Import a module that adds implementations; may be given several times.",
    )(command)


def sweep_options(command: click.decorators.FC) -> click.decorators.FC:
    """The sweep, `--set`, `--device` and `--import`."""
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="AXIS=V1,V2",
            help="Replace an axis in every group of the sweep, such as seq_len=1k,8k or "
            "dtype=bf16; may be given several times.",
        ),
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="auto",
            help="auto: CUDA if available.",
        ),
        import_option,
        click.argument("sweep", required=False),
    ):
        command = option(command)
    return command


def resolve(
    sweep: str | None, settings: Iterable[str], device: str
) -> tuple[Sweep, dict[str, Path]]:
    """The sweep of the options, and the paths of its captures by name."""
    settings = tuple(settings)
    if sweep is None and any(text.startswith("seq_len=") for text in settings):
        chosen, said = with_real_inputs(Sweep("axes", ({},)).overridden(settings), device)
        if said:
            click.echo(said, err=True)
    else:
        chosen = read(sweep or {"cpu": "cpu", "cuda": "gpu"}[device]).overridden(settings)
    return chosen.located()


def new_folder(out: Path | None, kind: str) -> Path:
    """The folder of a new run."""
    return out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}"


def resumed(
    folder: Path,
    sweep: str | None,
    settings: tuple[str, ...],
    device: str,
    modules: tuple[str, ...],
) -> SweepWorkload:
    """The workload of a run that is continued; UsageError if the other options contradict it."""
    header = journal.header(folder, SweepWorkload)
    recorded = tuple(header["environment"]["sweep"].get("modules", ()))
    if set(modules) - set(recorded):
        raise click.UsageError(
            f"{folder} was started with --import of {', '.join(recorded) or 'nothing'}; a "
            "resumed run imports the same modules"
        )
    import_modules(recorded)
    workload = SweepWorkload.of_header(header)
    if device != "auto" and chosen_device(device) != workload.device:
        raise click.UsageError(f"{folder} was measured on {workload.device}, not on {device}")
    chosen_device(workload.device)
    if sweep is not None or settings:
        wanted, files = resolve(sweep, settings, workload.device)
        cases = wanted.cases(workload.device, files)
        if (workload.shard.select(cases) if workload.shard else cases) != workload.cases:
            raise click.UsageError(
                f"{folder} was started with another sweep ({workload.sweep.name}); resume it "
                "without SWEEP and --set, or start a new run with --out"
            )
    return workload
