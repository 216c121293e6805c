"""Joins the journals of runs that measured parts of one sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.instruments import environment
from bench.loop import journal
from bench.loop.journal import Journal, Recorded
from bench.loop.machines import Machines, RunError
from bench.plan.shard import Shard
from bench.schema.case import Case
from bench.schema.journal_lines import events
from bench.schema.measurement import Measurement
from bench.schema.validation import name_of
from bench.workloads.sweep_workload import SweepWorkload

SHOWN = 3  # cases that a message names
SOFTWARE = ("attention-benchmark", "commit")  # in addition to those of `environment.differences`


@dataclass(frozen=True)
class ShardRun:
    """A run of a sweep, or of a part of it."""

    folder: Path
    recorded: Recorded[Measurement]

    @property
    def name(self) -> str:
        return name_of(self.folder)

    @property
    def shard(self) -> Shard | None:
        """The part of the sweep; None for the whole sweep."""
        text = self.recorded.header.get("shard")
        return Shard.parse(text) if text else None

    @cached_property
    def planned(self) -> Sequence[Case]:
        """The cases of the whole sweep."""
        return SweepWorkload.of_header(_of_whole_sweep(self.recorded.header)).cases


def read_parts(folders: Sequence[Path]) -> list[ShardRun]:
    """The runs in these folders.

    Raises:
        FileError: a folder has no journal of a sweep.
        RunError: the runs are not of one sweep and one version, or have different rows for one
            case.
    """
    parts = [ShardRun(folder, journal.read(folder, SweepWorkload)) for folder in folders]
    first = parts[0]
    for other in parts[1:]:
        _check_settings(first, other)
        _check_machines(first, other)
    _check_rows(parts)
    return parts


def missing(parts: Sequence[ShardRun]) -> list[Case]:
    """The cases of the whole sweep that have no row."""
    known = {case_id for part in parts for case_id in part.recorded.entries}
    return [case for case in parts[0].planned if case.case_id not in known]


def missing_shards(parts: Sequence[ShardRun]) -> list[int]:
    """The numbers of the shards that have cases without a row."""
    counts = {part.shard.count for part in parts if part.shard}
    if len(counts) != 1:
        raise RunError(
            "expected runs with --shard NUMBER/COUNT and one COUNT; got the counts "
            f"{', '.join(map(str, sorted(counts))) or 'of no run'}"
        )
    shard = Shard(1, counts.pop())
    return sorted({shard.of(case) for case in missing(parts)})


def merge(parts: Sequence[ShardRun], out: Path) -> int:
    """Write all rows of these runs to a new folder, which can be resumed if cases are missing.

    Returns the number of rows.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if journal.begun(out):
            raise RunError(f"{name_of(out)} holds a run already; give another --out")
        book = Journal(out)
        try:
            for event in _joined(parts):
                book.copy(event)
        finally:
            book.close()
        recorded = journal.read(out, SweepWorkload)
        workload = SweepWorkload.of_header(recorded.header)
        # Machines writes environment.json.
        machines = Machines(workload, out, book, recorded, may_join=True)
        workload.write(out, recorded.entries, machines.environment)
        return len(recorded.entries)
    except OSError as error:
        raise RunError(f"cannot write to {name_of(out)}: {error.strerror}") from error


def _joined(parts: Sequence[ShardRun]) -> list[Mapping[str, Any]]:
    """The events of the merged journal."""
    header = _of_whole_sweep(parts[0].recorded.header)
    found: list[Mapping[str, Any]] = [header]
    results: dict[str, Mapping[str, Any]] = {}
    hosts = {header["environment"].get("host", "")}
    for part in parts:
        for host, machine in part.recorded.machines.items():
            if host not in hosts:
                hosts.add(host)
                found.append({"event": "machine", "host": host, "environment": machine})
        for _, event in events(part.folder):
            if event["event"] == "selfcheck":
                found.append(event)
            elif event["event"] == "result":
                results[event["case_id"]] = event
    return [*found, *results.values()]


def _of_whole_sweep(header: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "shard"}


def _check_settings(first: ShardRun, other: ShardRun) -> None:
    for name, expected, got in _differing(_settings(first), _settings(other)):
        raise RunError(
            f"{other.name} measured another sweep than {first.name}: expected {name} {expected}, "
            f"got {got}"
        )


def _check_machines(first: ShardRun, other: ShardRun) -> None:
    expected, got = (part.recorded.header["environment"] for part in (first, other))
    found = environment.differences(expected, got, groups=("software",))
    versions = ({n: it["software"].get(n) for n in SOFTWARE} for it in (expected, got))
    found += [f"{name} was {was!r} and is {now!r}" for name, was, now in _differing(*versions)]
    for host in set(first.recorded.machines) & set(other.recorded.machines) if not found else ():
        found = environment.differences(
            first.recorded.machines[host], other.recorded.machines[host]
        )
    if found:
        raise RunError(
            f"{other.name} was measured with another installation than {first.name}: "
            f"{'; '.join(found)}"
        )


def _settings(part: ShardRun) -> dict[str, Any]:
    header = part.recorded.header
    plan = dict(header["environment"]["sweep"])
    groups = {
        f"{axis} of group {number}": values
        for number, group in enumerate(plan.pop("groups"), start=1)
        for axis, values in group.items()
    }
    asked = {name: header.get(name) for name in ("device", "seconds")}
    return {**plan, **asked, "files": sorted(header["files"]), **groups}


def _differing(expected: Mapping[str, Any], got: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = [*expected, *(name for name in got if name not in expected)]
    pairs = [(name, expected.get(name), got.get(name)) for name in names]
    return [(name, was, now) for name, was, now in pairs if was != now]


def _check_rows(parts: Sequence[ShardRun]) -> None:
    """Every row is of a case of the sweep, and a case has one row."""
    planned = {case.case_id for case in parts[0].planned}
    seen: dict[str, tuple[ShardRun, Measurement]] = {}
    twice: list[str] = []
    for part in parts:
        for case_id, row in part.recorded.results.items():
            if case_id not in planned:
                raise RunError(f"{part.name} has a row of another sweep: {row.case.label}")
            before, other = seen.setdefault(case_id, (part, row))
            if other != row:
                twice.append(f"{row.case.label} in {before.name} and {part.name}")
    if twice:
        more = f", and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        raise RunError(
            f"expected one row for each case, got different rows for {len(twice)}: "
            f"{'; '.join(twice[:SHOWN])}{more}"
        )
