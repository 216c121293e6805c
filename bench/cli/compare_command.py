"""The command `python -m bench compare`: of two stored runs, or of two revisions."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.core import ParameterSource

from bench.cli.gate_command import GateCommand, NotMeasuredError
from bench.cli.gate_options import GateSettings, gate_options
from bench.cli.stored_runs import table
from bench.schema.entry_point import console


@click.command(cls=GateCommand)
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[BEFORE AFTER]")
@click.option("--base", metavar="REVISION", help="The revision that is compared with.")
@click.option(
    "--head",
    metavar="REVISION",
    help="The revision that is judged. Default: HEAD, if no file of variants/ differs from it. "
    "WORKTREE: the files as they are.",
)
@click.option(
    "--only",
    type=click.Choice(["variants-that-changed"]),
    help="Measure only variants whose files, or files that they import, differ.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the table as Markdown to this file.",
)
@gate_options
def compare(
    runs: tuple[Path, ...],
    base: str | None,
    head: str | None,
    only: str | None,
    summary: Path | None,
    settings: GateSettings,
) -> None:
    """Compare the times of two revisions (--base), or of two folders of `bench run`.

    With --base, the calls of both revisions alternate on this machine, and each case gets the
    verdict FASTER, SAME, SLOWER or UNCLEAR. Runs of `make track` are compared by
    `make track-compare`.
    """
    if base is None:
        unused = _given_options()
        if len(runs) != 2 or unused:
            raise click.UsageError(
                "expected two folders of runs, or --base REVISION and no folder; got "
                f"{len(runs)} folders" + "".join(f" and {name}" for name in unused)
            )
        console().print(table(*runs))
        return
    if runs:
        raise click.UsageError(f"--base compares revisions; got also the folder {runs[0]}")
    try:
        from bench.cli import revision_gate  # imports torch and the variants of the working tree
    except Exception as error:
        raise NotMeasuredError(
            f"the harness needs the variants of the working tree, which cannot be imported: {error}"
        ) from error
    if summary is not None:
        revision_gate.check_writable(summary)
    found = revision_gate.run(base, head, settings, changed_only=only is not None)
    if found.outcomes:
        console(width=None if sys.stdout.isatty() else 200).print(found.table())
    if summary is not None:
        revision_gate.write_summary(summary, found.markdown())
    sys.exit(revision_gate.status_of(found))


def _given_options() -> list[str]:
    """The options of the command line."""
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.params
        if isinstance(option, click.Option)
        and context.get_parameter_source(option.name or "") == ParameterSource.COMMANDLINE
    ]
