"""Prints the machine, the packages, and the implementations that run here."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata

import click
import torch

import variants
from bench.instruments import environment

NEEDED = (
    "msgspec",
    "psutil",
    "pandas",
    "matplotlib",
    "jinja2",
    "click",
    "rich",
    "safetensors",
    "pytest",
)
SMI_SECONDS = 10.0


@click.command()
@click.option("--device", default="cuda")
def main(device: str) -> None:
    """Print everything that decides which code runs."""
    if device == "cuda":
        click.echo(_driver())
        click.echo(torch.cuda.get_device_properties(0))
        click.echo(f"cudnn {torch.backends.cudnn.version()}")
    click.echo(json.dumps(environment.describe(torch.device(device)), indent=1))
    for name in NEEDED:
        click.echo(f"{name} {_version(name)}")
    for name, cls in sorted(variants.REGISTRY.items()):
        for implementation in cls.info.implementations:
            click.echo(f"{name} {implementation}: {_reason(name, implementation, device)}")


def _driver() -> str:
    """The first lines of nvidia-smi, or why there are none."""
    try:
        done = subprocess.run(
            ["nvidia-smi"], capture_output=True, text=True, check=False, timeout=SMI_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no output of nvidia-smi: {error}"
    return "\n".join(done.stdout.splitlines()[:15])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "is missing"


def _reason(name: str, implementation: str, device: str) -> str:
    """Whether an implementation runs here; a failure to find out is printed too."""
    try:
        attention = variants.create(name, implementation=implementation)
        return attention.cannot_run(torch.device(device)) or "runs"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
