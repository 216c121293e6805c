"""Blocks of the documentation that are made from the code, between a begin and an end mark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reports.tables import columns_table, model_columns_table, variants_table


class BlockError(ValueError):
    """A page without the place that a generated block belongs to."""


@dataclass(frozen=True)
class Block:
    """A part of a page that is made from the code."""

    page: str
    name: str
    make: Callable[[], str]

    def updated(self, root: Path) -> tuple[Path, str, str]:
        """The page, its text, and the text it should have."""
        path = root / self.page
        begin, end = f"<!-- {self.name}:begin -->", f"<!-- {self.name}:end -->"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise BlockError(
                f"{self.page} has no place for the generated block {self.name!r}: expected one "
                f"line {begin} and, after it, one line {end}"
            )
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        return path, text, f"{before}{begin}\n{self.make()}\n{end}{after}"


BLOCKS = (
    Block("README.md", "variants", variants_table),
    Block("docs/columns.md", "columns", columns_table),
    Block("docs/model-columns.md", "model-columns", model_columns_table),
)


def stale_pages(root: Path) -> list[str]:
    """The pages whose blocks are not what the code says now."""
    return [block.page for block in BLOCKS if _differs(block, root)]


def rewrite_pages(root: Path) -> list[str]:
    """Bring the blocks up to date: the pages that changed. All of them, or none, are written."""
    pages = [(block.page, *block.updated(root)) for block in BLOCKS]
    changed = [(page, path, new) for page, path, old, new in pages if old != new]
    for _, path, new in changed:
        path.write_text(new, encoding="utf-8")
    return [page for page, *_ in changed]


def _differs(block: Block, root: Path) -> bool:
    _, old, new = block.updated(root)
    return old != new
