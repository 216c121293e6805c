"""The variants whose sources differ between two folders: their files and all that these import."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from bench.time_gate.revisions import SOURCES


def changed_variants(base: Path, head: Path) -> set[str]:
    """The names of the variants that differ, or that only one of two folders has."""
    first, second = _sources(base), _sources(head)
    return {name for name in {*first, *second} if first.get(name) != second.get(name)}


def needed_modules(folder: Path) -> dict[str, set[str]]:
    """The modules of the package that each variant needs, by the name of the variant."""
    modules = dict(_modules(folder))
    needs = {name: _imported(name, path, modules) for name, path in modules.items()}
    own = {name: f"{SOURCES}.{name}" for name in variant_names(folder)}
    # Each call imports the root of the package with its imports, such as the checks of a call.
    root = _closure(needs[SOURCES] - set(own.values()), needs)
    return {name: _closure({module}, needs) | root | {SOURCES} for name, module in own.items()}


def variant_names(folder: Path) -> set[str]:
    """The names of the variants in a folder with sources."""
    return {path.stem for path in (folder / SOURCES).glob("[!_]*.py")}


def _sources(folder: Path) -> dict[str, str]:
    """A hash of all files that each variant needs, by the name of the variant."""
    content = {name: path.read_bytes() for name, path in _modules(folder)}
    return {
        variant: hashlib.sha256(
            b"".join(b"%s %s" % (name.encode(), content[name]) for name in sorted(needed))
        ).hexdigest()
        for variant, needed in needed_modules(folder).items()
    }


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """The names of all modules, and their files."""
    for path in sorted((folder / SOURCES).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imported(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that a module imports, also inside of functions.

    A text that names a module counts as an import, because modules are also imported by name.
    """
    found: set[str] = set()
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return found  # its own text counts nevertheless
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = _package(name, path, node.level) if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    # A package is imported before its modules. The root is added to all variants.
    parents = {parent for one in found for parent in _parents(one)}
    return ((found | parents) & modules.keys()) - {name, SOURCES}


def _parents(name: str) -> Iterator[str]:
    """The packages that contain a module, without the root."""
    parts = name.split(".")
    for end in range(2, len(parts)):
        yield ".".join(parts[:end])


def _package(name: str, path: Path, level: int) -> list[str]:
    """The package that a relative import starts from."""
    parts = name.split(".")
    return parts[: len(parts) - level + (path.name == "__init__.py")]


def _closure(start: set[str], needs: dict[str, set[str]]) -> set[str]:
    found, open_ = set(start), list(start)
    while open_:
        new = needs[open_.pop()] - found
        found |= new
        open_ += new
    return found
