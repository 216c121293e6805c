"""The options that say where cases are measured."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bench.loop import worker_start
from bench.loop.executor import Executor, ExecutorError, WorkerCall
from bench.loop.local_executor import LocalExecutor
from bench.loop.memory_limit import worker_groups
from bench.loop.ray_executor import RayExecutor
from bench.loop.worker_settings import worker_settings

EXECUTORS = ("local", "ray")


def executor_options(command: click.decorators.FC) -> click.decorators.FC:
    """`--executor` and its settings."""
    for option in (
        click.option(
            "--executor",
            "kind",
            type=click.Choice(EXECUTORS),
            default="local",
            show_default=True,
            help="local: a process of this machine; ray: workers of a Ray cluster.",
        ),
        click.option(
            "--ray-address",
            metavar="auto|local|HOST:PORT",
            help="Address of a Ray cluster. Default: the cluster of this machine, or a new one.",
        ),
        click.option(
            "--cpus-per-case",
            type=click.IntRange(min=1),
            help="CPUs for each case of a Ray cluster; default: all CPUs of a machine.",
        ),
    ):
        command = option(command)
    return command


def make_executor(
    kind: str,
    folder: Path,
    device: str,
    modules: tuple[str, ...],
    ray_address: str | None,
    cpus_per_case: int | None,
) -> Executor:
    """The executor of a run."""
    on_gpu = device == "cuda"
    if kind == "local":
        if ray_address or cpus_per_case:
            raise click.UsageError("--ray-address and --cpus-per-case need --executor ray")
        group = worker_groups()
        start = WorkerCall(worker_start.start, (on_gpu, list(modules), group))
        return LocalExecutor(start, log=folder / "worker.log", group=group)
    start = WorkerCall(worker_start.start, (on_gpu, list(modules)))
    try:
        return RayExecutor(
            start,
            on_gpu=on_gpu,
            cpus_per_case=cpus_per_case,
            address=ray_address,
            variables=worker_settings(os.environ),
        )
    except ExecutorError as error:
        raise click.UsageError(str(error)) from error
