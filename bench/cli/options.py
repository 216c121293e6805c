"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import click

from bench.schema.column_types import DTYPES
from bench.schema.short_forms import whole_dtype, whole_number

DEVICES = ("auto", "cpu", "cuda")


class DtypeChoice(click.Choice[str]):
    """The name of a dtype, or a short form such as bf16."""

    def __init__(self) -> None:
        super().__init__(DTYPES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(whole_dtype(str(value)), param, ctx)


class NumberRange(click.IntRange):
    """A whole number, or a short form such as 8k for 8192."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = whole_number(str(value))
        converted: int = super().convert(value if number is None else number, param, ctx)
        return converted


def chosen_device(device: str) -> str:
    """The device, with `auto` resolved; click.UsageError if CUDA is requested but not available."""
    import torch  # here, because the options are also read by commands that need no torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch finds no CUDA device here; valid: auto, cpu")
    return device


def numbers(option: str, text: str | None) -> list[int] | None:
    """Parse `3,15,28` or `8k,16k` to a list; click.UsageError for any other text."""
    if text is None:
        return None
    found = [(word, whole_number(word)) for word in text.split(",")]
    try:
        return [int(word) if number is None else number for word, number in found]
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
