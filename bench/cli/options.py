"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import click
import torch

DEVICES = ("auto", "cpu", "cuda")


def chosen_device(device: str) -> str:
    """The device, with `auto` resolved; click.UsageError if CUDA is requested but not available."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch finds no CUDA device here; valid: auto, cpu")
    return device


def numbers(option: str, text: str | None) -> list[int] | None:
    """Parse `3,15,28` to a list; click.UsageError for any other text."""
    try:
        return None if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{option} takes numbers as 3,15,28; got {text!r}") from None


def import_modules(modules: Iterable[str]) -> None:
    """Import the modules of `--import`."""
    for module in modules:
        try:
            import_module(module)
        # A module that adds an implementation twice raises ValueError.
        except (ImportError, ValueError) as error:
            raise click.UsageError(f"--import {module}: {error}") from error
