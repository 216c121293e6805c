"""Reads files that may come from elsewhere. Every fault of a file becomes one `FileError`.

Values of JSON and TOML files are checked against declared types by msgspec before they are used;
`csv_columns` does the same for CSV files.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

MOST_SHOWN = 60  # characters of a value in a message
DEEPEST = 32  # levels of lists and objects in each other


class UserError(Exception):
    """The input of a user cannot be used. The message is one sentence; a command prints it and ends
    with exit status 2, and a `GateCommand` with 3."""


class FileError(UserError, ValueError):
    """A file cannot be used. The message is one sentence: file, place, expected and got."""


def shown(value: object) -> str:
    """A value for a message: in one line, at most `MOST_SHOWN` characters, nothing unprintable."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def name_of(path: str | Path) -> str:
    """A path or a file name as text that any file and any terminal can hold.

    Characters that cannot be printed and bytes that are not UTF-8 are escaped.
    """
    text = str(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_bytes(path: Path) -> bytes:
    """The content of a file; FileError if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        raise FileError(f"cannot read {name_of(path)}: {reason(error)}") from None


def is_file(path: Path) -> bool:
    """Whether a path is a file; FileError if no file can have this name."""
    return _asked(path, path.is_file)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; FileError if no folder can have this name."""
    return _asked(path, path.is_dir)


def _asked(path: Path, question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError) as error:  # a name that is too long, or with NUL
        raise FileError(f"cannot read {name_of(path)}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """The text of an error of the operating system, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or shown(str(error))


def one_line(error: Exception) -> str:
    """The message of an error, shortened, in one line."""
    return " ".join(str(error).split())[: 2 * MOST_SHOWN] or type(error).__name__


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark."""
    return decode(read_bytes(path), name_of(path))


def decode(content: bytes, source: str) -> str:
    """The text of UTF-8 bytes, without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = content[error.start : error.start + 8]
        if lines := content.count(b"\n", 0, error.start):
            source = f"{source}: line {lines + 1}"
        raise FileError(f"{source}: expected UTF-8, got {got!r}") from None


def read_json(path: Path, kind: Any) -> dict[str, Any]:
    """The object in a JSON file, checked against `kind` and otherwise unchanged."""
    value = parse_json(read_text(path), name_of(path))
    convert(value, kind, name_of(path))
    return value


def parse_json(text: str, source: str, *, surrogates: bool = False) -> Any:
    """The value of a JSON text; `source` names its file, and its line if it has several.

    Names that occur twice in an object, values nested too deeply and integers above 64 bits are
    refused, and texts that no UTF-8 file can hold unless `surrogates` allows them.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except _Twice as error:
        raise FileError(f"{source}: expected each name once in an object, got {error}") from None
    except RecursionError:
        raise FileError(f"{source}: {_TOO_DEEP}") from None
    except ValueError as error:
        raise FileError(f"{source} is not a JSON file: {one_line(error)}") from None
    _check_plain(value, source, surrogates=surrogates)
    return value


def parse_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file."""
    text, source = read_text(path), name_of(path)
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise FileError(f"{source}: {_TOO_DEEP}") from None
    except ValueError as error:  # also for an integer with too many digits
        raise FileError(f"{source} is not valid TOML: {one_line(error)}") from None
    _check_plain(value, source)
    return value


def convert(value: Any, kind: Any, source: str) -> Any:
    """A parsed value as the type `kind`; the error names the place in the file `source`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise FileError(f"{source}: {_sentence(str(error), value)}") from None
    except (RecursionError, OverflowError) as error:
        raise FileError(f"{source}: expected smaller values, got {one_line(error)}") from None


def _sentence(message: str, value: Any) -> str:
    """The message of msgspec, with the place and the value that was found there."""
    said, _, place = message.partition(" - at `")
    place = place.rstrip("`").removeprefix("$").removeprefix(".")
    known = "..." not in place and not place.startswith("key")
    if known:
        for name, index in re.findall(r"([^.\[\]]+)(?=[.\[]|$)|\[(\d+)\]", place):
            value = value[int(index)] if index else value[name]
    if found := re.fullmatch(r"Object missing required field `(.*)`", said):
        said, got = f"expected the name {found[1]}", f"only {', '.join(map(shown, value))}"
        got = got if value else "none"
    else:
        said, _, kind = said.partition(", got ")
        said = said[:1].lower() + said[1:]
        got = shown(value) if known else kind or "another value"
    return f"{place}: {said}, got {got}" if place else f"{said}, got {got}"


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"{shown(next(n for n in names if names.count(n) > 1))} twice")
    return found


_TOO_DEEP = f"expected at most {DEEPEST} lists and objects in each other, got more"


def _check_plain(value: Any, source: str, depth: int = 0, *, surrogates: bool = False) -> None:
    """FileError if a parsed value is too deep, or has a number or a text that cannot be used."""
    if depth > DEEPEST:
        raise FileError(f"{source}: {_TOO_DEEP}")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_plain(name, source, depth, surrogates=surrogates)
            _check_plain(inner, source, depth + 1, surrogates=surrogates)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, source, depth + 1, surrogates=surrogates)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise FileError(f"{source}: expected integers within 64 bits, got {_large(value)}")
    elif isinstance(value, str) and not surrogates and re.search("[\ud800-\udfff]", value):
        raise FileError(f"{source}: expected text, got half a character in {ascii(value)[:60]}")


def _large(value: int) -> str:
    return f"about 2^{value.bit_length()}"
