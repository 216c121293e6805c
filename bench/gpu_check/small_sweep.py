"""Runs the sweep `gpu_check` by the project's own command, and prints its rows."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import click

SWEEP = "gpu_check"
# On a CPU: every row of the sweep as a short one.
SHORT = ("seq_len=64", "heads=1", "implementation=auto", "inputs=gaussian", "head_dim=16")
LOG_BYTES = 200_000
COPY_SECONDS = 3.0  # between two copies of the rows; a killed part has those of the last one
LAST_SECONDS = 10.0  # after an interrupt, less than the grace that this part has itself
SHOWN = (
    "variant", "implementation_used", "seq_len", "head_dim", "dtype", "direction", "launch",
    "status", "time_ms_median", "wall_ms_median", "exact_ms_median", "speedup_vs_exact",
    "impl_error_rel_l2", "prepare_ms", "roofline_fraction", "reason",
)  # fmt: skip


@click.command()
@click.option("--device", default="cuda")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--run", "folder", type=click.Path(path_type=Path), required=True)
def main(device: str, out: Path, folder: Path) -> None:
    """Run the sweep; its rows are kept also if it is interrupted."""
    missing = [name for name in ("msgspec", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        click.echo(f"the sweep is left out: {', '.join(missing)} missing; put wheels into .whl/")
        return
    command = [sys.executable, "-m", "bench", "run", SWEEP, "--device", device]
    command += ["--out", str(folder)]
    if device == "cpu":
        command += ["--seconds", "0.01"]
        command += [word for setting in SHORT for word in ("--set", setting)]
    process = subprocess.Popen(command)
    follow(process, out, folder)


def follow(process: subprocess.Popen[bytes], out: Path, folder: Path) -> None:
    """Wait for a sweep, and copy its rows meanwhile and at its end."""
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(COPY_SECONDS)
            _copy(out, folder)
    except KeyboardInterrupt:  # the sweep got it too, and writes its rows
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_SECONDS)
    finally:
        process.kill()
        _keep(out, folder)


def _copy(out: Path, folder: Path) -> bool:
    """Copy the rows, if the sweep has written any."""
    if not (folder / "results.csv").is_file():
        return False
    partial = out / "sweep.part"
    shutil.copy(folder / "results.csv", partial)
    partial.replace(out / "sweep.csv")
    return True


def _keep(out: Path, folder: Path) -> None:
    log = folder / "worker.log"
    if log.is_file():
        click.echo(log.read_bytes()[-LOG_BYTES:].decode(errors="replace"))
    if not _copy(out, folder):
        click.echo("the sweep has no rows")
        return
    with (out / "sweep.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        cells = (f"{row[name][:60]}" for name in SHOWN if row[name])
        click.echo(" | ".join(_rounded(cell) for cell in cells))
    statuses = [row["status"] for row in rows]
    click.echo(", ".join(f"{statuses.count(x)} {x}" for x in sorted(set(statuses))))


def _rounded(cell: str) -> str:
    try:
        return cell if cell.isdecimal() else f"{float(cell):.4g}"
    except ValueError:
        return cell


if __name__ == "__main__":
    main()
