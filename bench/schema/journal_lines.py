"""Reads the lines of a journal, without the attentions that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.schema.journal_events import EVENTS
from bench.schema.validation import (
    FileError,
    convert,
    decode,
    is_file,
    name_of,
    parse_json,
    read_bytes,
    shown,
)

JOURNAL = "journal.jsonl"
HEADER = "run"  # the event of the first line
_RESULT = re.compile(rb'^\{"event": "result", "case_id": "(\w+)"', re.MULTILINE)


def events(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place and the content of each line of the journal in a folder; none without a journal.

    An incomplete last line is ignored, because a run may have died in it. The content of the header
    is not checked, because it depends on the command.

    Raises:
        FileError: a line is no event.
    """
    path = folder / JOURNAL
    if not is_file(path):
        return
    *lines, _ = read_bytes(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        source = f"{name_of(path)}: line {number}"
        # Paths in a header may have bytes that are not UTF-8.
        event = parse_json(decode(line, source), source, surrogates=number == 1)
        event = convert(event, dict[str, Any], source)
        kind = event.get("event")
        if kind != HEADER:
            if not isinstance(kind, str) or kind not in EVENTS:
                raise FileError(f"{source}: expected an event of a run, got {shown(kind)}")
            convert(event, EVENTS[kind], source)
        yield source, event


def details_of(event: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the second table that belong to a result."""
    found: list[dict[str, Any]] = event.get("details", event.get("heads", []))
    return found  # `heads` is the name in older journals


def number_of_results(folder: Path) -> int:
    """The number of cases with a result. The lines are not checked, which takes much longer."""
    path = folder / JOURNAL
    return len(set(_RESULT.findall(read_bytes(path)))) if is_file(path) else 0


def command_of(folder: Path) -> str:
    """The command that began a journal, such as `run`; an empty text without a journal."""
    for _, event in events(folder):
        return str(event.get("command", "run")) if event.get("event") == HEADER else ""
    return ""
