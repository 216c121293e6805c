"""Changes of kernels in a copy of the sources: added work, operations, tensors and errors."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.schema.validation import convert, parse_toml


@dataclass(frozen=True)
class AddedWork:
    """Added work: a number of operations that each make a tensor and compute its exponentials."""

    operations: int
    elements: int


@dataclass(frozen=True)
class Kernel:
    """A function of the package `variants` that a case calls once.

    Attributes:
        file: in the folder of the sources.
        function: name in the file, such as `Class.method`.
        tensor: expression of the function for a tensor of the size of the output.
        case: start of the name of the case.
        change: that `bench counts` must name.
    """

    file: str
    function: str
    tensor: str
    case: str
    change: Literal["operation", "temporary", "error", "gradient_error", "rounding_error"]

    @property
    def module(self) -> str:
        """The name by which Python imports the file."""
        return self.file.removesuffix(".py").replace("/", ".")

    @property
    def work_name(self) -> str:
        """The global variable of the module with the amount of added work."""
        return f"WORK_{self.function.replace('.', '_').upper()}"

    def pattern(self, seq_len: int) -> str:
        """The pattern that matches the name of the case with a length."""
        return f"{self.case} n={seq_len} *"

    def add(self, folder: Path, statements: str) -> None:
        """Insert statements at the start of the function, in a copy of the sources."""
        path = folder / self.file
        path.write_text(inserted(path.read_text(encoding="utf-8"), self.function, statements))

    def slow_down(self, folder: Path, work: AddedWork) -> None:
        """Add work to the function, in a copy of the sources."""
        name = self.work_name
        self.add(folder, f"for _ in range({name}[0]): {self.tensor}.new_ones({name}[1]).exp_()")
        with (folder / self.file).open("a", encoding="utf-8") as file:
            file.write(f"\n{name} = ({work.operations}, {work.elements})\n")


@dataclass(frozen=True)
class KernelsFile:
    """The content of kernels.toml.

    Attributes:
        unchanged: start of the name of a case that calls none of the kernels.
    """

    unchanged: str
    kernel: tuple[Kernel, ...]


FILE = Path(__file__).with_name("kernels.toml")
CONTENT: KernelsFile = convert(parse_toml(FILE), KernelsFile, FILE.name)
KERNELS, UNCHANGED = CONTENT.kernel, CONTENT.unchanged


def operation(kernel: Kernel) -> str:
    """One operation on one number."""
    return f"{kernel.tensor}[:1, :1, :1, :1].mul(1)"


def temporary(kernel: Kernel) -> str:
    """One tensor of the size of the output, which is freed when the function returns."""
    return f"_extra = {kernel.tensor}.new_empty({kernel.tensor}.shape)"


def scaled(factor: float) -> str:
    """Another scale of the scores: the output gets an error, without another operation."""
    return (
        "from dataclasses import replace\n"
        f"call = replace(call, scale=call.scale * {factor!r})  # type: ignore"
    )


def scaled_gradients(factor: float) -> str:
    """Other gradients: each is multiplied by a factor."""
    return f"grads = tuple(one * {factor!r} for one in grads)"


def inserted(source: str, function: str, statements: str) -> str:
    """The source with statements at the start of a function, after its docstring.

    Raises:
        LookupError: the source has no such function.
    """
    node = _found(ast.parse(source), function)
    first = node.body[ast.get_docstring(node) is not None]
    lines = source.splitlines(keepends=True)
    new = textwrap.indent(statements, " " * first.col_offset) + "\n"
    return "".join([*lines[: first.lineno - 1], new, *lines[first.lineno - 1 :]])


def _found(tree: ast.Module, function: str) -> ast.FunctionDef:
    """The definition with a name such as `Class.method`."""
    body: Iterable[ast.stmt] = tree.body
    node: ast.stmt | None = None
    for name in function.split("."):
        node = next((it for it in body if getattr(it, "name", None) == name), None)
        body = getattr(node, "body", ())
    if not isinstance(node, ast.FunctionDef):
        raise LookupError(f"the source has no function {function}")
    return node
