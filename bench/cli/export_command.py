"""The command `python -m bench export`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bench.export.bencher_format import bencher
from bench.export.case_table import case_table
from bench.export.exported_run import ExportedRun, ExportError
from bench.export.github_action_format import github_action
from bench.export.pytorch_format import pytorch_v3
from bench.export.tracking_run import read_tracking
from bench.loop.result_files import write_text
from bench.schema.parquet_file import LIBRARIES, write_parquet
from bench.schema.validation import is_file, is_folder, name_of

PARQUET = "parquet"
JSON_FORMATS: Mapping[str, Callable[[ExportedRun], Any]] = {
    "bencher": bencher,
    "github-action": github_action,
    "pytorch-v3": pytorch_v3,
}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice([*JSON_FORMATS, PARQUET]),
    help="Format of the file, by the tool that reads it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File that is written; without it, a JSON format is printed.",
)
def export(run: Path, form: str, out: Path | None) -> None:
    """Write the results of a run in a format that another tool reads.

    RUN is the folder of a run, or a file that `make track` has stored. bencher is the Bencher
    Metric Format; github-action is the file of github-action-benchmark for customSmallerIsBetter;
    pytorch-v3 has the records of the PyTorch benchmark database; parquet is the table of cases. The
    JSON formats leave out cases without a time; the command prints their number.
    """
    if out is None and form == PARQUET:
        raise click.UsageError("--format parquet needs --out FILE")
    if out is not None:
        _check_place(out)
    read = read_tracking(run) if is_file(run) else ExportedRun.of_folder(run)
    if form == PARQUET:
        assert out is not None
        if not write_parquet(case_table(read), out):
            raise ExportError(f"Parquet files need one of the packages {', '.join(LIBRARIES)}")
        click.echo(f"{out}: {len(read.rows)} cases", err=True)
        return
    text = json.dumps(JSON_FORMATS[form](read), indent=2, allow_nan=False)
    if read.left_out:
        click.echo(read.left_out, err=True)
    if out is None:
        click.echo(text)
    else:
        write_text(out, f"{text}\n")


def _check_place(out: Path) -> None:
    """ExportError if no file can be written there."""
    if is_folder(out):
        raise ExportError(f"--out {name_of(out)}: expected the name of a file, got a folder")
    if not is_folder(out.parent):
        raise ExportError(
            f"--out {name_of(out)}: expected a file in a folder that exists; "
            f"there is no folder {name_of(out.parent)}"
        )
