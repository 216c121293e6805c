"""The text that a model reads: Northanger Abbey, which is part of this package, or a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bench.schema.validation import FileError, UserError, name_of, parse_toml, read_bytes

NOVEL = Path(__file__).with_name("northanger_abbey.txt")


class ModelError(UserError, ValueError):
    """A run with a model cannot start or continue. The message is one sentence."""


@dataclass(frozen=True)
class Text:
    """A text. `title`, which rows contain, is its title or its file name, never its folder."""

    words: str
    title: str
    license: str
    sha256: str


def read_text(file: Path) -> Text:
    """Read a UTF-8 text; FileError if it cannot be read or decoded."""
    content = read_bytes(file)
    try:
        words = content.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{name_of(file)}: expected a UTF-8 text file; {error}") from None
    title, license = name_of(file.name), "not stated"
    if file == NOVEL:
        about = parse_toml(NOVEL.with_suffix(".toml"))
        title, license = about["title"], about["license"]
    return Text(words, title, license, hashlib.sha256(content).hexdigest())
