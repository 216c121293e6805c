"""The text that a model reads: Northanger Abbey, which is part of this package, or a file."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

NOVEL = Path(__file__).with_name("northanger_abbey.txt")


class ModelError(ValueError):
    """A run with a model cannot start or continue. The message is one sentence."""


@dataclass(frozen=True)
class Text:
    """A text. `title`, which rows contain, is its title or its file name, never its folder."""

    words: str
    title: str
    license: str
    sha256: str


def read_text(file: Path) -> Text:
    """Read a UTF-8 text; ModelError if it cannot be read or decoded."""
    try:
        content = file.read_bytes()
        words = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"{file}: expected a UTF-8 text file; {why}") from error
    title, license = file.name, "not stated"
    if file == NOVEL:
        about = tomllib.loads(NOVEL.with_suffix(".toml").read_text(encoding="utf-8"))
        title, license = about["title"], about["license"]
    return Text(words, title, license, hashlib.sha256(content).hexdigest())
