"""Reads the results of runs, and refuses files that this version cannot read."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.schema.case import Case
from bench.schema.columns import Column
from bench.schema.environment_file import CheckFacts, EnvironmentFile
from bench.schema.journal_lines import JOURNAL
from bench.schema.machine_kind import machine_id, machine_of
from bench.schema.measurement import HeadRow, Measurement
from bench.schema.origin import knobs_of, run_id, settings_of, torch_version
from bench.schema.outcome import Status
from bench.schema.row import Row
from bench.schema.run_tables import RunTables, Values
from bench.schema.validation import FileError, is_file, is_folder, name_of, read_json
from reports import declared
from reports.curves import with_curves
from reports.machine_columns import environments, with_hardware
from reports.names import with_names

RESULTS = "results.csv"
ENVIRONMENT = "environment.json"
SELFCHECK = "selfcheck"  # optional: selfcheck.json beside a run
OK = Status.OK.value
HEADS = "heads.csv"  # optional: a row for each head of each finished case


@dataclass(frozen=True)
class Runs:
    """Rows of all runs, and the environment of each kind of machine by its name.

    `frame` has the columns of the schema, the columns of `with_names` (`label`, `source` and
    others), the columns of `with_curves`, and these: `machine` names the kind of machine,
    `hardware` is the same name without the `allocator` setting, `run_id`, `machine_id` and
    `torch_version` are as in results.csv, `modules` lists the modules that
    added implementations, and `public` is True if the implementation of the row is public code.

    `per_head` has a row for each head: `case` (the number of its row in `frame`) and the columns
    of `HeadRow`. It is empty for runs without such rows.
    """

    frame: pd.DataFrame
    environments: Mapping[str, Mapping[str, Any]]
    per_head: pd.DataFrame


def read_runs(folders: Sequence[Path]) -> Runs:
    """The rows of one or more results folders, with the names that figures and tables use."""
    unique = {os.path.realpath(folder): Path(folder) for folder in folders}
    if not unique:
        raise FileError(f"expected at least one results folder, which holds {RESULTS}; got none")
    tables = [read_tables(folder) for folder in unique.values()]
    runs = _told_apart([(frame_of(table), read_environment(table.folder)) for table in tables])
    frames: list[pd.DataFrame] = []
    heads: list[pd.DataFrame] = []
    for table, (frame, _) in zip(tables, runs, strict=True):
        heads.append(read_heads(table, frame, first=sum(len(earlier) for earlier in frames)))
        frames.append(frame)
    return Runs(
        frame=with_curves(with_names(pd.concat(frames, ignore_index=True))),
        environments=environments(runs),
        per_head=pd.concat(heads, ignore_index=True),
    )


def read_tables(folder: Path, row_type: type[Row[Any]] = Measurement) -> RunTables:
    """The tables of one folder, completed by its journal.

    Raises:
        FileError: a value is not of the type of its column, or out of its bounds.
    """
    if not is_file(folder / JOURNAL):
        existing(folder, row_type.file)
    return RunTables.read(folder, row_type, HEADS if row_type is Measurement else "")


def frame_of(tables: RunTables) -> pd.DataFrame:
    """The last row of each case; each column has the type of its field in the type of the rows."""
    row_type = tables.row_type
    frame = _typed(tables.rows, row_type.columns())
    # Failed rows, and rows of older versions, have no target.
    asked = zip(frame["variant"], frame["hyperparameters"].map(settings_of), strict=True)
    targets = pd.Series([declared.target(*each) for each in asked], frame.index, dtype="str")
    frame["target"] = frame["target"].mask(frame["target"] == "", targets)
    check_statuses(frame, row_type, tables.folder / row_type.file)
    case = list(row_type.case_type.columns())
    return frame.drop_duplicates(case, keep="last", ignore_index=True)


def _typed(values: Values, columns: Mapping[str, Column]) -> pd.DataFrame:
    return pd.DataFrame({name: _series(values[name], column) for name, column in columns.items()})


def check_statuses(frame: pd.DataFrame, rows: type[Row[Any]], path: Path) -> None:
    """FileError if there is no row, or one with status ok has no time."""
    if frame.empty:
        raise FileError(f"{name_of(path)} has no rows: nothing has been measured yet")
    if (wrong := (frame["status"] == OK) & frame[rows.needed].isna()).any():
        raise FileError(
            f"{name_of(path)}: column {rows.needed}, row {int(wrong.to_numpy().argmax()) + 1}: "
            "expected a number in a row with status ok, got nothing"
        )


def _series(values: Sequence[Any], column: Column) -> pd.Series[Any]:
    """The values of a column. Integers stay integers, also where some are missing."""
    kinds = {column.hint, *typing.get_args(column.hint)}
    kinds |= {origin for kind in kinds if (origin := getattr(kind, "__origin__", None))}
    if bool in kinds:
        return pd.Series(values, dtype="boolean" if None in values else bool)
    if int in kinds:
        return pd.Series(values, dtype="Int64")
    if float in kinds:
        return pd.Series(values, dtype="float64")
    return pd.Series([str(value) for value in values], dtype="str")


def read_heads(tables: RunTables, frame: pd.DataFrame, first: int = 0) -> pd.DataFrame:
    """The heads of the rows of `frame`; `first` is the number of the first of these rows."""
    columns = ["case", *HeadRow.columns()]
    if (values := tables.details(HEADS, HeadRow)) is None:
        return pd.DataFrame(columns=columns, dtype="float64")
    heads = _typed(values, {**Case.columns(), **HeadRow.columns()})
    case = list(Case.columns())
    heads = heads.drop_duplicates([*case, "batch_index", "head"], keep="last")
    cases = frame[case].assign(case=range(first, first + len(frame)))
    return heads.merge(cases, on=case)[columns].astype({"case": int})


def read_environment(folder: Path) -> dict[str, Any]:
    """The content of environment.json of a run, with that of a selfcheck.json beside it."""
    environment = read_json(existing(folder, ENVIRONMENT), EnvironmentFile)
    beside = folder / f"{SELFCHECK}.json"
    if not beside.is_file():
        return environment
    return environment | {SELFCHECK: read_json(beside, CheckFacts)}


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of finished cases; only these have numbers."""
    return frame[frame["status"] == OK]


def existing(folder: Path, name: str) -> Path:
    """The path of a file in a results folder.

    Raises:
        FileError: the file does not exist.
    """
    if not is_folder(folder):
        raise FileError(
            f"{name_of(folder)} is not a folder; expected a results folder, which holds {RESULTS} "
            f"and {ENVIRONMENT}"
        )
    if not is_file(folder / name):
        entries = sorted(name_of(entry.name) for entry in folder.iterdir())
        raise FileError(
            f"{name_of(folder)} has no {name}; a results folder holds {RESULTS} and {ENVIRONMENT}, "
            f"this one holds {', '.join(entries[:8]) or 'nothing'}"
        )
    return folder / name


def default_knobs(frame: pd.DataFrame, environment: Mapping[str, Any]) -> pd.Series[str]:
    """The knob of each row's variant at its default: as the run has recorded it, else as this
    version declares it."""
    recorded = knobs_of(environment)
    return frame["variant"].map(
        lambda name: recorded[name] if name in recorded else declared.knob(name)
    )


def _described(frame: pd.DataFrame, environment: Mapping[str, Any]) -> pd.DataFrame:
    """Add the columns that come from the environment of the run."""
    kept = frame["allocator"] == "kept"
    sweep = environment.get("sweep", {})
    added = sweep.get("added", ())
    machines = {host: machine_of(environment, host) for host in frame["host"].unique()}
    return frame.assign(
        machine=frame["hardware"].mask(kept, frame["hardware"] + ", memory kept"),
        run_id=run_id(environment),
        machine_id=frame["host"].map({host: machine_id(it) for host, it in machines.items()}),
        torch_version=frame["host"].map({host: torch_version(it) for host, it in machines.items()}),
        modules=" ".join(sweep.get("modules", ())),
        default_knob=default_knobs(frame, environment),
        public=declared.calls_library(frame)
        | (frame["variant"] + "/" + frame["implementation"]).isin(list(added)),
    )


def _told_apart(
    runs: Sequence[tuple[pd.DataFrame, dict[str, Any]]],
) -> list[tuple[pd.DataFrame, Mapping[str, Any]]]:
    """Add a `machine` column to the runs.

    If two runs measured one case on the same machine, the column also has the starts of the runs.
    """
    named = [(_described(frame, env), env) for frame, env in with_hardware(runs)]
    key = [*Case.columns(), "machine"]
    together = pd.concat([frame[key] for frame, _ in named], ignore_index=True)
    clashing = set(together.loc[together.duplicated(), "machine"])
    result = []
    for number, (frame, env) in enumerate(named, start=1):
        start = str(env.get("started_utc", ""))[:16].replace("T", " ")
        suffix = f", run {number}" + (f" ({start})" if start else "")
        machine = frame["machine"]
        machine = machine.where(~machine.isin(clashing), machine + suffix)
        result.append((frame.assign(machine=machine), env))
    return result
