"""Commands whose modules are imported when they run, because most of them import torch."""

from __future__ import annotations

import ast
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from bench.schema.entry_point import Summarized
from bench.schema.validation import one_line


class DeferredCommand(Summarized):
    """A command that is not imported yet.

    Args:
        name: of the command.
        place: of the command, as `module:function`. The summary in the help of the group is the
            first sentence of the function's docstring, which is read without an import.
    """

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name)
        self._module, _, self._function = place.partition(":")

    def load(self) -> click.Command:
        """The command itself. ClickException with the exit status 2 if it cannot be imported, for
        example because a variant in the working tree has an error of syntax."""
        try:
            command = getattr(import_module(self._module), self._function)
        except Exception as error:
            traceback.print_exc()
            stopped = click.ClickException(f"this checkout cannot be imported: {one_line(error)}")
            stopped.exit_code = 2  # type: ignore[misc]  # click reads it from the instance
            raise stopped from error
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        return self.load().make_context(info_name, args, parent, **extra)

    def get_short_help_str(self, limit: int = 0) -> str:
        self.help = self._docstring()
        return super().get_short_help_str(limit)

    def _docstring(self) -> str:
        spec = find_spec(self._module)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == self._function:
                return ast.get_docstring(node) or ""
        raise AttributeError(f"{self._module} has no function {self._function}")
