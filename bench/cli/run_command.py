"""The command `python -m bench run`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from bench.cli.executor_options import executor_options, make_executor
from bench.cli.options import chosen_device, import_modules
from bench.cli.stopping import until_stopped
from bench.cli.sweep_options import new_folder, resolve, sweep_options
from bench.loop import journal
from bench.loop.run_loop import run as run_loop
from bench.plan.shard import Shard
from bench.workloads.sweep_workload import SweepWorkload

SECONDS = 0.2


@click.command()
@sweep_options
@executor_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option(
    "--shard",
    metavar="NUMBER/COUNT",
    help="Measure a part of the sweep, such as 2/3; `python -m bench merge` joins the parts.",
)
@click.option("--resume", type=click.Path(path_type=Path), help="Continue the run in this folder.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01),
    help=f"Sampling time of a case; default: {SECONDS}.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    help="Seconds after which a case is stopped. Default: that of the sweep, 180 in most sweeps.",
)
def run(
    sweep: str | None,
    settings: tuple[str, ...],
    device: str,
    modules: tuple[str, ...],
    kind: str,
    ray_address: str | None,
    cpus_per_case: int | None,
    out: Path | None,
    shard: str | None,
    resume: Path | None,
    seconds: float | None,
    timeout: float | None,
) -> None:
    """Measure a sweep: a .toml file, or the name of a built-in one (cpu, field, gpu,
    gpu_check, layer, long, smoke, peers).

    Without SWEEP, the default sweep of the device (cpu or gpu) is measured. If SWEEP is left out
    and --set contains seq_len, the sweep has only the axes of --set and default values for others.
    """
    if resume is not None and out is not None:
        raise click.UsageError("give --out for a new run or --resume for an old one, not both")
    part = Shard.parse(shard) if shard else None
    recorded = None
    if resume is not None:
        folder, workload = resume, _resumed(resume, sweep, settings, device, modules, part)
        recorded = journal.read(resume, SweepWorkload)
    else:
        import_modules(modules)
        device = chosen_device(device)
        chosen, files = resolve(sweep, settings, device)
        workload = SweepWorkload(chosen, device, files, SECONDS, chosen.timeout, modules, part)
        folder = new_folder(out, device)
    workload = dataclasses.replace(
        workload, seconds=seconds or workload.seconds, timeout=timeout or workload.timeout
    )
    executor = make_executor(
        kind, folder, workload.device, tuple(workload.modules), ray_address, cpus_per_case
    )
    workload.cases  # noqa: B018  # an invalid sweep is refused before the folder is made
    until_stopped(lambda: run_loop(workload, folder, executor, recorded), folder, "run")
    click.echo(folder)


def _resumed(
    folder: Path,
    sweep: str | None,
    settings: tuple[str, ...],
    device: str,
    modules: tuple[str, ...],
    part: Shard | None,
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
    if part not in (None, workload.shard):
        raise click.UsageError(
            f"{folder} measures {f'shard {workload.shard}' if workload.shard else 'all shards'}, "
            f"not shard {part}"
        )
    if sweep is not None or settings:
        wanted, files = resolve(sweep, settings, workload.device)
        planned = dataclasses.replace(workload, shard=None).cases
        if wanted.cases(workload.device, files) != planned:
            raise click.UsageError(
                f"{folder} was started with another sweep ({workload.sweep.name}); resume it "
                "without SWEEP and --set, or start a new run with --out"
            )
    return workload
