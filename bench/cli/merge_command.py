"""The command `python -m bench merge`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import import_modules
from bench.loop import journal
from bench.loop.merge import merge as join
from bench.loop.merge import missing, missing_shards, read_parts
from bench.workloads.sweep_workload import SweepWorkload

SHOWN = 5


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the merged run.")
@click.option(
    "--missing",
    "only_missing",
    is_flag=True,
    help="Write nothing; print the numbers of the shards that have cases without a row, as 2,5.",
)
def merge(runs: tuple[Path, ...], out: Path | None, only_missing: bool) -> None:
    """Join runs that measured parts of one sweep with --shard.

    Runs of other sweeps or versions are refused, and so are different rows for one case. A run that
    has ended before its first case counts as missing. A case with any row, also of the status
    error, crashed or timeout, is not missing.
    """
    if (out is None) != only_missing:
        raise click.UsageError("give --out for the merged run, or --missing; not both")
    # If no run has begun, the message is that of the first one.
    runs = tuple(folder for folder in runs if not journal.is_empty(folder)) or runs
    for folder in runs:
        header = journal.header(folder, SweepWorkload)
        import_modules(header["environment"]["sweep"].get("modules", ()))
    parts = read_parts(runs)
    if out is None:
        click.echo(",".join(map(str, missing_shards(parts))))
        return
    rows, left = join(parts, out), missing(parts)
    if left:
        named = ", ".join(case.label for case in left[:SHOWN])
        more = f", and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        click.echo(
            f"{rows} rows; {len(left)} cases have no row: {named}{more}; "
            f"measure them with: python -m bench run --resume {out}",
            err=True,
        )
    else:
        click.echo(f"{rows} rows; every case has a row", err=True)
    click.echo(out)
