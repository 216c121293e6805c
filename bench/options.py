"""What several commands take."""

from __future__ import annotations

import click
import torch

DEVICES = ("auto", "cpu", "cuda")


def chosen_device(device: str) -> str:
    """One of `DEVICES`, with `auto` decided; a click.UsageError without CUDA where it is asked."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch finds no CUDA device here; valid: auto, cpu")
    return device


def numbers(option: str, text: str | None) -> list[int] | None:
    """`3,15,28` as a list; a click.UsageError for anything else."""
    try:
        return None if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{option} takes numbers as 3,15,28; got {text!r}") from None
