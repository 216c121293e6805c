"""The status and the reason of a case whose measurement raised an exception.

Exceptions come from implementations that users add and from libraries, so neither their types nor
their texts can be trusted: the text may fail, and it may name people and machines.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from bench.inputs import CaptureError, InputsError
from bench.schema.outcome import Status
from variants import UnsupportedError

__all__ = ["cleaned", "failure"]

OWN = (UnsupportedError, InputsError, CaptureError)
LONGEST = 300  # characters of a reason
READ = 10_000  # characters of a text that are looked at

# An absolute path, or a path of Windows, of a share or of a home folder. The slashes of a URL, a
# division and "~5 GiB" begin no path.
START = (
    r"(?:/(?=[^\s/])|(?<!:)//+(?=[^\s/])|~(?=[/\\]|[A-Za-z_])|[A-Za-z]:[\\/]|\\\\(?=\w)|file://)"
)
# A path may contain spaces and semicolons. So it ends at the quotation mark or bracket that it
# began with, otherwise before a colon and a space, or with the line.
PATH = re.compile(
    rf"(?<=([\"'`])){START}.*(?=\1)|(?<=\(){START}[^)]*|(?<![\w./\\~)]){START}.*?(?=: |$)"
)
ADDRESS = re.compile(r"[\w.+-]+@[\w-][\w.-]*|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
# These names say nothing about a person or a machine.
GENERIC = frozenset({"root", "localhost", "nobody", "user"})
PEOPLE = ("USER", "LOGNAME", "USERNAME")
MACHINES = ("HOSTNAME", "HOST", "COMPUTERNAME")
HOMES = ("HOME", "USERPROFILE")


def failure(error: BaseException, files: Mapping[str, Path]) -> tuple[Status, str]:
    """The status and the reason of a case that raised `error`.

    The reason is one line. It contains the names of `files` instead of their paths, and no other
    path, no name of the user and no name of the machine.
    """
    own = issubclass(type(error), OWN)
    raw = _text(error)
    text = cleaned(raw if own else _first_line(raw), files)
    name = cleaned(_name(error), {})
    if own:
        return Status.UNSUPPORTED, text or name
    # If the CPU allocator fails, torch raises a plain RuntimeError.
    refused = issubclass(type(error), RuntimeError) and "can't allocate memory" in raw
    if refused or issubclass(type(error), MemoryError | torch.OutOfMemoryError):
        return Status.OUT_OF_MEMORY, text or name
    return Status.ERROR, _cut(f"{name}: {text}" if text else name)


def cleaned(text: str, files: Mapping[str, Path]) -> str:
    """A text on one line without names of people, machines and folders."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:READ]).split())
    # Names of captures are set in at the end, as they may look like names of people.
    names = {f"file:{name}": path for name, path in files.items()}
    spellings = [
        (spelling, f"\0{number}\0")
        for number, path in enumerate(names.values())
        for spelling in {str(path), str(path.absolute()), repr(str(path))[1:-1]}
    ]
    for spelling, mark in sorted(spellings, key=lambda pair: -len(pair[0])):
        text = text.replace(spelling, mark)
    text = PATH.sub("(path)", text)
    text = ADDRESS.sub("(address)", text)
    for pattern, word in _names():
        text = pattern.sub(word, text)
    for number, name in enumerate(names):
        text = text.replace(f"\0{number}\0", name)
    return _cut(text)


@cache
def _names() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns of the names of this user and this machine, and what stands for them."""
    found: dict[str, str] = {}
    for value, word in _values():
        if len(value) > 1 and value.lower() not in GENERIC:
            found.setdefault(value, word)
    return tuple(
        (re.compile(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", re.IGNORECASE), word)
        for value, word in sorted(found.items(), key=lambda pair: -len(pair[0]))
    )


def _values() -> Iterator[tuple[str, str]]:
    for name in HOMES:
        home = os.environ.get(name, "").rstrip("/\\")
        yield home, "(path)"
        yield re.split(r"[/\\]", home)[-1], "(user)"
    with suppress(Exception):  # a user without an entry in the user database
        yield getpass.getuser(), "(user)"
    for name in PEOPLE:
        yield os.environ.get(name, ""), "(user)"
    machines = [socket.gethostname(), *(os.environ.get(name, "") for name in MACHINES)]
    for machine in machines:
        yield machine, "(host)"
        yield machine.partition(".")[0], "(host)"


def _text(error: BaseException) -> str:
    """The text of an exception; empty if it cannot be read."""
    try:
        return str.__getitem__(str(error), slice(0, READ))  # of a subclass of str, a str
    except BaseException:  # raised by code of an implementation
        return ""


def _name(error: BaseException) -> str:
    try:
        return str.__getitem__(type(error).__name__, slice(0, 80))
    except BaseException:  # raised by a metaclass of an implementation
        return "an exception without a name"


def _first_line(text: str) -> str:
    """The first line with words, and those after it while a line ends with a colon."""
    found: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found.append(line)
        if not line.endswith(":"):
            break
    return " ".join(found)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
