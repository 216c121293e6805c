"""The command line of the experiments: `python -m bench.gate_proof COMMAND`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.cli.gate_command import FINE, REGRESSION
from bench.cli.gate_options import ROUNDS, GateSettings, gate_options
from bench.gate_proof import false_alarms, injected_changes, proof_table
from bench.loop.result_files import write_text
from bench.schema.entry_point import CommandLine

OUT = Path("results") / "gate-proof"


@click.group(cls=CommandLine)
def main() -> None:
    """Measure how often the time gate is wrong, and that each gate catches its kind of change."""


@main.command("false-alarms")
@click.option(
    "--runs",
    type=click.IntRange(min=4),
    default=16,
    show_default=True,
    help="Number of runs, a multiple of 4: one of four has a busy process beside it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=OUT / "verdicts.csv",
    show_default=True,
    help="CSV file to which the verdicts are added.",
)
@gate_options
def measure_false_alarms(runs: int, out: Path, settings: GateSettings) -> None:
    """Compare equal code with itself, and add the verdicts to a file."""
    if runs % 4:
        raise click.UsageError(f"--runs takes a multiple of 4; got {runs}")
    false_alarms.measure(settings, runs, out)
    for line in false_alarms.summary([out]):
        click.echo(line)


@main.command("injected")
@click.option(
    "--reps",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Times that each kernel gets each slowdown; each second time beside a busy process.",
)
@click.option("--rounds", type=click.IntRange(min=3), default=ROUNDS, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=OUT / "injected.md",
    show_default=True,
    help="Markdown file for the tables.",
)
def injected(reps: int, rounds: int, out: Path) -> None:
    """Change kernels in copies of the sources, and show that the right gate catches each change.

    The exit status is 1 if a change was not caught.
    """
    proof = injected_changes.prove(reps, rounds)
    text = proof_table.markdown(proof)
    click.echo(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    sys.exit(FINE if proof.complete else REGRESSION)


@main.command("rates")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
def rates(files: tuple[Path, ...]) -> None:
    """Show the rates of false verdicts in files of `false-alarms`."""
    for line in false_alarms.summary(files):
        click.echo(line)


if __name__ == "__main__":
    main(prog_name="python -m bench.gate_proof")
