"""The command `python -m bench plan`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import chosen_device, import_modules
from bench.cli.sweep_options import BUILT_IN_SWEEPS, resolve, resumed, sweep_options
from bench.launches import sweep_time
from bench.loop import journal
from bench.loop.progress import in_words
from bench.plan import earlier_runs, summary
from bench.schema.entry_point import console
from bench.workloads.sweep_workload import SAMPLING_SECONDS, SweepWorkload


@click.command(epilog=BUILT_IN_SWEEPS)
@sweep_options
@click.option("--resume", type=click.Path(path_type=Path), help="Plan the rest of this run.")
@click.option(
    "--from",
    "earlier",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUN",
    help="Predict from this run; may be given several times. Default: the runs in results/.",
)
def plan(
    sweep: str | None,
    settings: tuple[str, ...],
    device: str,
    modules: tuple[str, ...],
    resume: Path | None,
    earlier: tuple[Path, ...],
) -> None:
    """Predict the time and the memory of a sweep, without measuring it.

    The prediction uses earlier runs on this machine, and operation counts for other cases. For a
    GPU, also say how long the sweep takes on an H100; this needs no GPU. The sweep `gpu` is planned
    for a GPU unless --device says otherwise.
    """
    done: set[str] = set()
    if resume is not None:
        workload = resumed(resume, sweep, settings, device, modules)
        done = set(journal.read(resume, SweepWorkload).entries)
    else:
        import_modules(modules)
        if device == "auto" and sweep == "gpu":
            device = "cuda"
        device = device if device == "cuda" else chosen_device(device)
        chosen, files = resolve(sweep, settings, device)
        workload = SweepWorkload(chosen, device, files, SAMPLING_SECONDS, chosen.timeout, modules)
    on, cases = workload.device, workload.cases
    known = earlier_runs.read(earlier, on, resume)
    predictions = known.predictor(workload).predict(cases)
    left = [one for one in predictions if one.case.case_id not in done]
    screen = console()
    title = f"{workload.sweep.name} on {on}: {len(cases)} cases"
    if on == "cpu" or known.known:
        title += f", about {in_words(summary.seconds(left, known.other_seconds))}"
    for table in summary.tables(title, predictions, done):
        screen.print(table)
    screen.print(summary.axes(cases), highlight=False)
    if on == "cuda":
        expected, said = sweep_time.table(workload.sweep, workload.files)
        screen.print(expected)
        screen.print(said, highlight=False)
    if on == "cpu" or known.known:
        said = summary.sentence(left, known.other_seconds, known.memory_bytes(on))
        for line in (said, summary.earlier(known.durations), *known.left_out):
            if line:
                screen.print(line, highlight=False)
