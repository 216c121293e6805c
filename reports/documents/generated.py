"""Writes or checks the files that are generated from the code, whole or between two marks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reports.documents import (
    answer,
    column_tables,
    create_stub,
    declarations,
    evaluation_page,
    overview,
    pictures,
    variant_page,
)
from reports.page.pattern_gallery import FACTS

VARIANTS = "docs/variants"  # every file of this folder is generated


class BlockError(ValueError):
    """A page has no place for a generated block."""


@dataclass(frozen=True)
class Block:
    """A part of a page that is generated, between a begin and an end mark."""

    page: str
    name: str
    make: Callable[[], str]

    def inserted(self, text: str) -> str:
        """The text of the page with this block generated again.

        Raises:
            BlockError: the page does not have each mark once, in this order.
        """
        begin, end = f"<!-- {self.name}:begin -->", f"<!-- {self.name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise BlockError(
                f"{self.page} has no place for the generated block {self.name!r}: expected one "
                f"line {begin} and, after it, one line {end}"
            )
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        return f"{before}{begin}\n{self.make()}\n{end}{after}"


BLOCKS = (
    Block("README.md", "answer", answer.example),
    Block("README.md", "variants", overview.table),
    Block("docs/columns.md", "results", column_tables.of_results),
    Block("docs/recommender.md", "evaluation", evaluation_page.evaluation),
    Block("docs/columns.md", "model", column_tables.of_model),
    Block("docs/columns.md", "answers", column_tables.of_answers),
)


def stale_files(root: Path) -> list[str]:
    """The generated files under `root` that differ from the output of the code."""
    return [path for path, _ in _changes(root)]


def rewrite(root: Path) -> list[str]:
    """Update the generated files, and delete those of variants that no longer exist.

    Returns:
        The files that changed.

    Raises:
        BlockError: a page has no place for its block. No file is then written.
    """
    changes = list(_changes(root))
    for path, content in changes:
        file = root / path
        if content is None:
            file.unlink()
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return [path for path, _ in changes]


def _changes(root: Path) -> Iterator[tuple[str, bytes | None]]:
    """Path and new content of each file that must change; None if it must be deleted."""
    pages: dict[str, str] = {}
    for block in BLOCKS:
        file = root / block.page
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        pages[block.page] = block.inserted(pages.get(block.page, text))
    made = {path: text.encode() for path, text in pages.items()}
    for module in (create_stub, declarations):
        made[module.FILE] = module.text().encode()
    for name in overview.names():
        made[f"{VARIANTS}/{name}.md"] = variant_page.text(name).encode()
        made[f"{pictures.PLACE}/{name}.png"] = pictures.png(name)
    made[f"{pictures.PLACE}/{FACTS}"] = pictures.facts().encode()
    for path, content in made.items():
        file = root / path
        old = file.read_bytes() if file.is_file() else b""
        same = pictures.same if path.endswith(".png") else bytes.__eq__
        if not same(old, content):
            yield path, content
    for folder in (VARIANTS, pictures.PLACE):
        for file in sorted((root / folder).glob("*")):
            path = file.relative_to(root).as_posix()
            if path not in made:
                yield path, None
