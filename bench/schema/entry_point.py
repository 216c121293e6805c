"""Parts that all command lines share: standard streams that can take any text, and errors of input.

It is in `bench.schema` because reports import this package, and it does not import torch.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click
from rich.console import Console

from bench.schema.validation import UserError, name_of, reason

LONGEST = 800  # characters of a message


class InvalidInput(click.ClickException):
    """Ends a command with one sentence and exit status 2."""

    exit_code = 2


class Summarized(click.Command):
    """A command whose summary in the help of its group is a whole sentence."""

    def get_short_help_str(self, limit: int = 0) -> str:
        return super().get_short_help_str(limit=LONGEST)


class CommandLine(click.Group):
    """A group of commands that ends with one sentence and exit status 2 for invalid input.

    The sentence is the message of a `UserError`. Ctrl-C ends a command without a traceback.
    """

    command_class = Summarized

    def main(self, *args: Any, **options: Any) -> Any:
        open_streams()
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise InvalidInput(sentence(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError) or error.filename is None:
                raise
            raise InvalidInput(f"{name_of(os.fspath(error.filename))}: {reason(error)}") from error


def sentence(error: Exception) -> str:
    """The message of an error, in one line and without what a terminal cannot show."""
    text = name_of(" ".join(str(error).split()))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def open_streams() -> None:
    """Open standard streams that are closed, and let them replace what they cannot encode."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would have this number
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - stays open
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def console(**options: Any) -> Console:
    """A console that prints names as they are: brackets and colons in them are no markup."""
    return Console(markup=False, emoji=False, **options)
