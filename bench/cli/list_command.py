"""The command `python -m bench list`."""

from __future__ import annotations

import click

from bench.cli import variant_tables
from bench.cli.options import import_modules
from bench.cli.sweep_options import import_option
from bench.schema.entry_point import console

WIDE = 1000  # characters of a line that is not for a terminal


@click.command(name="list")
@click.argument("variant", required=False)
@import_option
def list_(variant: str | None, modules: tuple[str, ...]) -> None:
    """Show all variants, their settings, and the implementations that run here.

    With VARIANT, show details of one variant and the meaning of each hyperparameter. In a pipe or a
    file, tables are plain lines, with a line for each implementation.
    """
    import_modules(modules)
    screen = console()
    boxed = screen.is_terminal
    if not boxed:
        screen.width = WIDE
    tables = variant_tables.of_one(variant, boxed) if variant else variant_tables.of_all(boxed)
    try:
        for part in tables:
            screen.print(part, highlight=False)
    except ValueError as error:  # an unknown variant
        raise click.UsageError(str(error)) from error
