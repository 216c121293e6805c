"""Reads stored runs, and refuses those that the present run must not be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_benchmark.storage.file import FileStorage

from bench.schema.machine_kind import differences
from bench.schema.tracking_file import read_tracking_file
from bench.schema.validation import FileError, UserError, name_of

MOST_SHOWN = 5  # machines in a message


class RefusedError(UserError):
    """The present run cannot be compared. The message names the files and the reason."""


def check(folder: Path, asked: str | bool, present: Mapping[str, Any], machine_id: str) -> None:
    """Refuse a comparison with stored runs, before anything is measured.

    Args:
        folder: the folder of `--benchmark-storage`.
        asked: the value of `--benchmark-compare`; True is the last run.
        present: the present `machine_info`.
        machine_id: name of the folder in which pytest-benchmark stores runs.

    Raises:
        RefusedError: there is no such run, or it is of another machine.
        FileError: a file cannot be used.
    """
    found = _asked_for(folder, asked, machine_id)
    if not found:
        wanted = "no stored run" if asked is True else f"no stored run {asked}"
        others = _others(folder.parent, present) if asked is True else ""
        raise RefusedError(
            f"{name_of(folder)} holds {wanted} to compare with; `make track` stores one{others}"
        )
    for path in found:
        if changed := differences(read_tracking_file(path).machine_info.facts, present):
            raise RefusedError(
                f"{name_of(path)} was measured on another machine or installation, and its times "
                f"are not compared: {'; '.join(changed)}"
            )


def _asked_for(folder: Path, asked: str | bool, machine_id: str) -> list[Path]:
    """The files that pytest-benchmark compares with."""
    if not folder.is_dir() and asked is True:
        return []
    try:
        # This class makes the folder; pytest-benchmark makes it too.
        storage = FileStorage(folder, None, default_machine_id=machine_id)
        if asked is True:
            return storage.query("[0-9][0-9][0-9][0-9]_")[-1:]
        return [path for path in storage.query(asked) if path.is_file()]
    except ValueError:
        raise RefusedError(
            f"--benchmark-compare={name_of(str(asked))}: expected a file, or the number of a run "
            f"in {name_of(folder)}"
        ) from None


def _others(folder: Path, present: Mapping[str, Any]) -> str:
    """A sentence on the runs of other machines that are stored beside a missing one."""
    newest: dict[Path, str] = {}
    for path in sorted(folder.glob("*/*/[0-9][0-9][0-9][0-9]_*.json")):
        try:
            changed = differences(read_tracking_file(path).machine_info.facts, present)
        except FileError as error:
            newest[path.parents[1]] = str(error)
            continue
        newest[path.parents[1]] = "; ".join(changed)
    if not newest:
        return ""
    listed = [f"\n  {name_of(path)}: {why}" for path, why in newest.items() if why]
    more = f"\n  and {len(listed) - MOST_SHOWN} more" if len(listed) > MOST_SHOWN else ""
    return ". Runs of other machines are not compared:" + "".join(listed[:MOST_SHOWN]) + more
