"""Read the results of runs, and refuse what this version did not write."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.measurement import CASE_COLUMNS, COLUMNS, LATER, Measurement, Status
from reports.curves import with_curves
from reports.names import allocator, machine_name, with_names

RESULTS = "results.csv"
ENVIRONMENT = "environment.json"
EXACT = "full"  # the variant the others are judged by, drawn apart from them
# Built-in implementations that call a public kernel.
LIBRARY = ("sdpa", "flash", "cudnn", "efficient", "flex", "xformers", "fla")
OK = Status.OK.value

_TRUTHS = {"true": True, "false": False}


class RunError(ValueError):
    """A run that cannot be read: what was expected and what was found."""


@dataclass(frozen=True)
class Runs:
    """Rows of all runs, and what each machine was.

    Besides the columns of the schema, `frame` has `label` (of a line in a figure), `machine`,
    `source` (the inputs and their layer), `grouping` and `memory`: see `with_names`; for those of
    curves see `with_curves`. `hardware` is the machine without its `allocator` setting; `modules`
    are those that added implementations; `public` says of a row whether its implementation is
    public code.
    """

    frame: pd.DataFrame
    environments: Mapping[str, Mapping[str, Any]]


def read_runs(folders: Sequence[Path]) -> Runs:
    """The rows of one or more results folders, with the names that figures and tables use."""
    unique = {Path(folder).resolve(): Path(folder) for folder in folders}
    if not unique:
        raise RunError(f"expected at least one results folder, which holds {RESULTS}; got none")
    runs = [(read_rows(folder), read_environment(folder)) for folder in unique.values()]
    frames, environments = [], {}
    for frame, environment in _told_apart(runs):
        frames.append(frame)
        for machine in frame["machine"].unique():
            environments[str(machine)] = environment
    frame = with_names(pd.concat(frames, ignore_index=True))
    return Runs(with_curves(frame), environments)


def read_rows(folder: Path) -> pd.DataFrame:
    """The rows of one folder, each column in the type its field has in `Measurement`."""
    path = _existing(folder, RESULTS)
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except pd.errors.EmptyDataError:
        raise RunError(f"{path} is empty; expected a header and one row per case") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not a CSV file: {error}") from None
    earlier = {name: "" if default is None else str(default) for name, default in LATER.items()}
    text = text.assign(**{name: earlier[name] for name in set(LATER) - set(text.columns)})
    if missing := [column for column in COLUMNS if column not in text.columns]:
        raise RunError(
            f"{path} lacks {len(missing)} of the {len(COLUMNS)} expected columns: "
            f"{', '.join(missing)}. The run may come from another version of this program; "
            "run it again, or report it with the version it was made with"
        )
    if text.empty:
        raise RunError(f"{path} holds a header and no rows: nothing has been measured yet")
    hints = typing.get_type_hints(Measurement)
    columns = {name: _typed(text[name], hints[name], path) for name in COLUMNS}
    frame = pd.DataFrame(columns)
    return frame.drop_duplicates(list(CASE_COLUMNS), keep="last", ignore_index=True)


def read_environment(folder: Path) -> dict[str, Any]:
    """What the machine of a run was."""
    path = _existing(folder, ENVIRONMENT)
    try:
        environment = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(environment, dict):
        raise RunError(f"{path}: expected an object, got {type(environment).__name__}")
    return environment


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that have numbers."""
    return frame[frame["status"] == OK]


def _existing(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise RunError(
            f"{folder} is not a folder; expected a results folder, which holds {RESULTS} and "
            f"{ENVIRONMENT}"
        )
    if not (folder / name).is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise RunError(
            f"{folder} has no {name}; a results folder holds {RESULTS} and {ENVIRONMENT}, this "
            f"one holds {found}"
        )
    return folder / name


def _typed(text: pd.Series[str], hint: Any, path: Path) -> pd.Series[Any]:
    is_union = isinstance(hint, types.UnionType)
    kinds = set(typing.get_args(hint)) if is_union else {hint}
    empty = text == ""
    if kinds & {bool, int, float} and types.NoneType not in kinds and empty.any():
        raise _unreadable(text, empty, "a value", path)
    if bool in kinds:
        truths = text.str.lower().map(_TRUTHS)
        if truths.isna().any():
            raise _unreadable(text, truths.isna(), "True or False", path)
        return truths.astype(bool)
    if int in kinds or float in kinds:
        numbers = pd.to_numeric(text.mask(empty), errors="coerce").astype("float64")
        if (wrong := numbers.isna() & ~empty & (text.str.lower() != "nan")).any():
            raise _unreadable(text, wrong, "a number", path)
        if float in kinds:
            return numbers
        if (wrong := numbers.notna() & (numbers % 1 != 0)).any():
            raise _unreadable(text, wrong, "a whole number", path)
        return numbers.astype("Int64")
    if Status in kinds and (wrong := ~text.isin(list(Status))).any():
        raise _unreadable(text, wrong, f"one of {', '.join(Status)}", path)
    return text


def _unreadable(text: pd.Series[str], wrong: pd.Series[bool], valid: str, path: Path) -> RunError:
    line = int(wrong.to_numpy().argmax())
    return RunError(
        f"{path}: column {text.name}, row {line + 1}: expected {valid}, got {text.iloc[line]!r}"
    )


def _described(frame: pd.DataFrame, environment: Mapping[str, Any]) -> pd.DataFrame:
    """With what the environment says of the rows."""
    hardware = pd.Series(
        [machine_name(environment, device) for device in frame["device"]], frame.index
    )
    kept = allocator(environment) == "kept"
    sweep = environment.get("sweep")
    sweep = sweep if isinstance(sweep, dict) else {}
    added = sweep.get("added", ())
    knobs = sweep.get("knobs", {})
    return frame.assign(
        machine=hardware + ", memory kept" if kept else hardware,
        hardware=hardware,
        allocator=allocator(environment),
        modules=" ".join(sweep.get("modules", ())),
        default_knob=frame["variant"].map(lambda name: knobs.get(name, "")),
        public=frame["implementation"].isin(LIBRARY)
        | frame["implementation_used"].isin(LIBRARY)
        | (frame["variant"] + "/" + frame["implementation"]).isin(list(added)),
    )


def _told_apart(
    runs: Sequence[tuple[pd.DataFrame, dict[str, Any]]],
) -> list[tuple[pd.DataFrame, dict[str, Any]]]:
    """The runs with a `machine` column; a case measured twice on one machine tells by its start."""
    named = [(_described(frame, env), env) for frame, env in runs]
    key = [*CASE_COLUMNS, "machine"]
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
