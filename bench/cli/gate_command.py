"""Exit statuses that all gates share: a script can tell a regression from a gate that failed."""

from __future__ import annotations

from typing import Any

import click

from bench.schema.entry_point import Summarized, sentence
from bench.schema.validation import UserError

FINE, REGRESSION, NOT_MEASURED, INVALID = 0, 1, 2, 3
STATUSES = "Exit status: 0 fine, 1 a regression, 2 could not measure, 3 bad input."


class NotMeasuredError(UserError):
    """The input is valid, and there is no result. The message is one sentence."""


class GateCommand(Summarized):
    """A command that ends with `INVALID` for bad input and `NOT_MEASURED` without a result."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.epilog = STATUSES

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            error.exit_code = INVALID
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.exit_code = INVALID
            raise
        except UserError as error:
            stopped = click.ClickException(sentence(error))
            missing = isinstance(error, NotMeasuredError)
            stopped.exit_code = NOT_MEASURED if missing else INVALID
            raise stopped from error
