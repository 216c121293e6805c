"""The command `python -m bench plan`."""

from __future__ import annotations

from collections import Counter

import click
from rich.table import Table

from bench.cli.options import chosen_device, import_modules
from bench.cli.sweep_options import resolve, sweep_options
from bench.launches import sweep_time
from bench.schema.entry_point import console


@click.command()
@sweep_options
def plan(
    sweep: str | None, settings: tuple[str, ...], device: str, modules: tuple[str, ...]
) -> None:
    """Count the cases of a sweep for each variant and length, without measuring them.

    For a GPU, also say how long the sweep takes there; this needs no GPU. The sweep `gpu` is
    planned for a GPU unless --device says otherwise.
    """
    import_modules(modules)
    if device == "auto" and sweep == "gpu":
        device = "cuda"
    device = device if device == "cuda" else chosen_device(device)
    chosen, files = resolve(sweep, settings, device)
    cases = chosen.cases(device, files)
    counts = Counter((case.variant, case.seq_len) for case in cases)
    lengths = sorted({length for _, length in counts})
    table = Table(title=f"{chosen.name} on {device}: {len(cases)} cases")
    table.add_column("variant")
    for length in lengths:
        table.add_column(f"n={length}", justify="right")
    for name in sorted({variant for variant, _ in counts}):
        table.add_row(name, *(str(counts[name, length]) for length in lengths))
    screen = console()
    screen.print(table)
    if device == "cuda":
        expected, said = sweep_time.table(chosen, files)
        screen.print(expected)
        screen.print(said, highlight=False)
