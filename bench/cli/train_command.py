"""The command `python -m bench train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

import variants
from bench.cli.options import DEVICES, NumberRange, chosen_device
from bench.cli.stopping import until_stopped
from bench.cli.sweep_options import new_folder
from bench.loop import journal
from bench.loop.executor import WorkerCall
from bench.loop.journal import Recorded
from bench.loop.local_executor import LocalExecutor
from bench.loop.run_loop import run
from bench.schema.entry_point import console
from bench.schema.outcome import Status
from bench.schema.training_row import TrainingCase, TrainingRow
from bench.workloads.training import training_summary
from bench.workloads.training.settings import attention_at
from bench.workloads.training.tasks import TASKS
from bench.workloads.training.training_workload import TrainingWorkload, use_one_thread


@click.command()
@click.option(
    "--variant",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="A variant as in a sweep, such as 'lsh num_hashes=2'; may be given several times. "
    "Default: all variants with a backward pass.",
)
@click.option(
    "--task",
    "tasks",
    type=click.Choice(list(TASKS)),
    multiple=True,
    help="May be given several times. Default: all tasks.",
)
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0, max=2**32),
    multiple=True,
    default=(0,),
    help="Seed of model and data; may be given several times.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Maximum number of steps.",
)
@click.option(
    "--seq-len",
    type=NumberRange(min=8),
    default=32,
    show_default=True,
    help="Tokens in a sequence.",
)
@click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of training.csv, curves.csv.")
@click.option("--resume", type=click.Path(path_type=Path), help="Continue the run in this folder.")
def train(
    texts: tuple[str, ...],
    tasks: tuple[str, ...],
    seeds: tuple[int, ...],
    steps: int,
    seq_len: int,
    device: str,
    out: Path | None,
    resume: Path | None,
) -> None:
    """Train a tiny model with each variant on the tasks copy and recall; show which learn them.

    Hyperparameters that --variant does not set are small, so that approximate methods are not exact
    on these short sequences.
    """
    if resume is not None:
        recorded = journal.read(resume, TrainingWorkload)
        _run(TrainingWorkload.of_header(recorded.header), resume, recorded)
        return
    device = chosen_device(device)
    texts = texts or tuple(
        name for name, cls in sorted(variants.REGISTRY.items()) if "backward" in cls.info.supports
    )
    asked = tuple(
        TrainingCase(
            attention=attention,
            causal=attention.info.causal_choices[-1],
            task=task,
            seed=seed,
            device=device,
            seq_len=seq_len,
            steps=steps,
        )
        for attention in dict.fromkeys(attention_at(text, seq_len) for text in texts)
        for task in dict.fromkeys(tasks or TASKS)
        for seed in dict.fromkeys(seeds)
    )
    _run(TrainingWorkload(asked), new_folder(out, "train"), None)


def _run(workload: TrainingWorkload, folder: Path, recorded: Recorded[TrainingRow] | None) -> None:
    """On a CPU each training uses one thread, so its numbers depend only on the seed. On a GPU
    they run one after another."""
    on_cpu = workload.device == "cpu"
    start = WorkerCall(use_one_thread if on_cpu else int)
    processes = min(len(workload.cases), os.cpu_count() or 1) if on_cpu else 1
    executor = LocalExecutor(start, processes, folder / "worker.log")
    rows = until_stopped(lambda: run(workload, folder, executor, recorded), folder, "train")
    screen = console()
    screen.print(training_summary.table(rows))
    for sentence in training_summary.sentences(rows):
        screen.print(sentence, highlight=False)
    click.echo(folder)
    if any(row.status is not Status.OK for row in rows):
        sys.exit(1)
