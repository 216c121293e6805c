"""The command `python -m bench run`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from bench.cli.executor_options import executor_options, make_executor
from bench.cli.options import chosen_device, import_modules
from bench.cli.stopping import until_stopped
from bench.cli.sweep_options import (
    BUILT_IN_SWEEPS,
    new_folder,
    resolve,
    resumed,
    sweep_options,
)
from bench.loop import journal
from bench.loop.journal import Recorded
from bench.loop.run_loop import run as run_loop
from bench.loop.workload import Expected
from bench.plan import earlier_runs, summary
from bench.plan.shard import Shard
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.workloads.sweep_workload import SAMPLING_SECONDS, SweepWorkload


@click.command(epilog=BUILT_IN_SWEEPS)
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
    help=f"Sampling time of a case; default: {SAMPLING_SECONDS}.",
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
    """Measure the cases of a sweep.

    SWEEP is a .toml file, or the name of a built-in one.

    No SWEEP: the default sweep of the device, cpu or gpu. With --set seq_len=... and no SWEEP: only
    what --set names; the rest is every variant, causal where it can be, 8 heads of 64 channels,
    float32, and inputs of a real model (smollm2), or inputs sinks where these are too short.
    """
    if resume is not None and out is not None:
        raise click.UsageError("give --out for a new run or --resume for an old one, not both")
    part = Shard.parse(shard) if shard else None
    recorded = None
    if resume is not None:
        folder, workload = resume, resumed(resume, sweep, settings, device, modules)
        if part not in (None, workload.shard):
            measured = f"shard {workload.shard}" if workload.shard else "all shards"
            raise click.UsageError(f"{resume} measures {measured}, not shard {part}")
        recorded = journal.read(resume, SweepWorkload)
    else:
        import_modules(modules)
        device = chosen_device(device)
        chosen, files = resolve(sweep, settings, device)
        workload = SweepWorkload(
            chosen, device, files, SAMPLING_SECONDS, chosen.timeout, modules, part
        )
        folder = new_folder(out, device)
    workload = dataclasses.replace(
        workload, seconds=seconds or workload.seconds, timeout=timeout or workload.timeout
    )
    expected = _expected(workload, resume, recorded)  # refuses an invalid sweep
    executor = make_executor(
        kind, folder, workload.device, tuple(workload.modules), ray_address, cpus_per_case
    )
    rows = until_stopped(
        lambda: run_loop(workload, folder, executor, recorded, expected), folder, "run"
    )
    click.echo(folder)
    if rows and all(row.status is not Status.OK for row in rows):
        click.echo("nothing could be measured:", err=True)
        for line in summary.reasons(rows):
            click.echo(f"  {line}", err=True)
        sys.exit(1)


def _expected(
    workload: SweepWorkload, resume: Path | None, recorded: Recorded[Measurement] | None
) -> Expected:
    """The predicted times of the cases, and of all that are left."""
    known = earlier_runs.read([], workload.device, resume)
    predictions = known.predictor(workload).predict(workload.cases)
    done = set(recorded.entries) if recorded else set()
    left = [one for one in predictions if one.case.case_id not in done]
    memory = known.memory_bytes(workload.device)
    said = summary.sentence(left, known.other_seconds, memory)
    times = {one.case.case_id: one.seconds for one in predictions}
    return Expected(summary.seconds(left, known.other_seconds), said, times)
