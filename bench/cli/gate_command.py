"""Exit statuses that all gates share: a script can tell a regression from a gate that failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from bench.loop.interrupts import Stopped, stopped_by_signals
from bench.schema.entry_point import Summarized, sentence
from bench.schema.validation import UserError

FINE, REGRESSION, NOT_MEASURED, INVALID = 0, 1, 2, 3
STATUSES = "Exit status: 0 fine, 1 a regression, 2 could not measure, 3 bad input."


class NotMeasuredError(UserError):
    """The input is valid, and there is no result. The message is one sentence."""


class StoppedGate(click.ClickException):
    """Ends a gate with one sentence and an exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click reads it from the instance


class GateCommand(Summarized):
    """A command that ends with `INVALID` for bad input and `NOT_MEASURED` without a result."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.epilog = STATUSES

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _statuses():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _statuses(), stopped_by_signals():  # so that temporary folders are removed
            return super().invoke(ctx)


@contextmanager
def _statuses() -> Iterator[None]:
    """Inside, errors of input get the exit status of a gate."""
    try:
        yield
    except click.UsageError as error:
        raise StoppedGate(_with_usage(error), INVALID) from error
    except UserError as error:
        missing = isinstance(error, NotMeasuredError)
        raise StoppedGate(sentence(error), NOT_MEASURED if missing else INVALID) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt as stop:
        status = stop.exit_status if isinstance(stop, Stopped) else 130
        raise StoppedGate("stopped", status) from None
    except Exception as error:  # its exit status would be 1, as that of a regression
        if not isinstance(error, OSError):
            traceback.print_exc()
        raise StoppedGate(sentence(error), NOT_MEASURED) from error


def _with_usage(error: click.UsageError) -> str:
    hint = "" if error.ctx is None else f" ({error.ctx.command_path} --help shows the options)"
    return f"{error.format_message()}{hint}"
