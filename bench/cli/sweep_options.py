"""The options that choose the cases of a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from bench.cli.options import DEVICES
from bench.plan.sweep import Sweep, read


def import_option(command: click.decorators.FC) -> click.decorators.FC:
    """`--import`: modules that add implementations."""
    return click.option(
        "--import",
        "modules",
        multiple=True,
        metavar="MODULE",
        help="Import a module that adds implementations; may be given several times.",
    )(command)


def sweep_options(command: click.decorators.FC) -> click.decorators.FC:
    """The sweep, `--set`, `--device` and `--import`."""
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="AXIS=V1,V2",
            help="Replace an axis in every group of the sweep; may be given several times.",
        ),
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="auto",
            help="auto: CUDA if available.",
        ),
        import_option,
        click.argument("sweep", required=False),
    ):
        command = option(command)
    return command


def resolve(
    sweep: str | None, settings: Iterable[str], device: str
) -> tuple[Sweep, dict[str, Path]]:
    """The sweep of the options, and the paths of its captures by name."""
    settings = tuple(settings)
    if sweep is None and any(text.startswith("seq_len=") for text in settings):
        chosen = Sweep("axes", ({},))
    else:
        chosen = read(sweep or {"cpu": "cpu", "cuda": "gpu"}[device])
    return chosen.overridden(settings).located()


def new_folder(out: Path | None, kind: str) -> Path:
    """The folder of a new run."""
    return out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}"
