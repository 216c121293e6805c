"""Profiles the calls that lose most against exact attention."""

from __future__ import annotations

import traceback
from pathlib import Path

import click
import torch
from torch.profiler import ProfilerActivity, profile

from bench.cli.options import numbers
from bench.gpu_check.call_rows import read
from bench.gpu_check.planned_calls import planned

PROFILED = 8
KERNELS = 12  # rows of a table


@click.command()
@click.option("--device", default="cuda")
@click.option("--seq-len", "lengths", default="16384,65536")
@click.option("--heads", default=16)
@click.option("--rows", "file", type=click.Path(path_type=Path), required=True)
@click.option("--simulated", expose_value=False)
def main(device: str, lengths: str, heads: int, file: Path) -> None:
    """Print the kernels of each call with their times."""
    rows = {key: row for key, row in read(file).items() if row["exact_over_this"]}
    slow = sorted(rows, key=lambda key: float(rows[key]["exact_over_this"]))[:PROFILED]
    calls = {call.key: call for call in planned(numbers("--seq-len", lengths) or [], heads)}
    for key in slow:
        click.echo(f"\n{' '.join(key)}: exact/this {rows[key]['exact_over_this']}")
        try:
            click.echo(table(calls[key].made(torch.device(device)), device))
        except Exception:  # the other profiles are still useful
            click.echo(traceback.format_exc())


def table(call: object, device: str) -> str:
    """The kernels of a call on a GPU, or its operations on a CPU, longest first."""
    assert callable(call)
    call()
    gpu = device == "cuda"
    activities = [ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        call()
        if gpu:
            torch.cuda.synchronize()
    order = "cuda_time_total" if gpu else "cpu_time_total"
    return seen.key_averages().table(sort_by=order, row_limit=KERNELS, max_name_column_width=80)


if __name__ == "__main__":
    main()
