"""The last columns of a row in a CSV file: its quality knob, its run and its machine.

They follow from the hyperparameters of the row and from environment.json, so a journal does not
have them, and readers compute them also for older files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.schema.column_types import Name
from bench.schema.columns import Record, column
from bench.schema.machine_kind import digest, machine_id, machine_of

# The parts of environment.json that a run may add after its start.
ADDED = ("machines", "selfchecks", "selfcheck", "durations")
KNOB_NAMES = " and "  # between the names of hyperparameters that grow together


@dataclass(frozen=True, kw_only=True)
class Knob(Record):
    """The setting of a row on the curve of error against time of its variant."""

    knob: str = column(
        "hyperparameter that trades error for time; none: the variant has no such hyperparameter",
        "",
        came_later=True,
        empty="none",
    )
    knob_value: float | None = column(
        "number of the knob; the first one, if several hyperparameters grow together; -1: the "
        "variant has no knob",
        None,
        came_later=True,
        empty="-1",
    )
    is_default: bool | None = column(
        "whether the knob has its default; True without a knob", None, came_later=True
    )


@dataclass(frozen=True, kw_only=True)
class Origin(Knob):
    """Where a row comes from, in files that hold rows of several runs."""

    run_id: Name = column(
        "pseudonym of the run: the day of its start, and a hash of its environment.json",
        "",
        came_later=True,
        empty="unknown",
    )
    machine_id: Name = column(
        "pseudonym of the hardware of the machine: processor, cores, threads and GPU. Compare "
        "times only of rows with the same machine_id and torch_version",
        "",
        came_later=True,
        empty="unknown",
    )
    torch_version: Name = column(
        "version of torch that measured the row", "", came_later=True, empty="unknown"
    )


def origin_of(values: Mapping[str, Any], environment: Mapping[str, Any], default: str) -> Origin:
    """The columns of a row.

    Args:
        values: the columns of the row.
        environment: the content of environment.json.
        default: the knob of the variant at its default, as `window_size=256`.
    """
    machine = machine_of(environment, values["host"])
    return Origin(
        **knob_of(values["hyperparameters"], default).values,
        run_id=run_id(environment),
        machine_id=machine_id(machine),
        torch_version=torch_version(machine),
    )


def knob_of(hyperparameters: str, default: str) -> Knob:
    """The columns of the knob; `default` is as in `origin_of`, empty without a knob."""
    own, knob = settings_of(hyperparameters), settings_of(default)
    # Whole numbers stay whole, so that pandas reads the column as integers.
    numbers = [float(own[name]) for name in knob if name in own]
    numbers = [int(number) if number.is_integer() else number for number in numbers]
    return Knob(
        knob=KNOB_NAMES.join(knob),
        knob_value=numbers[0] if numbers else None,
        is_default=knob.items() <= own.items(),
    )


def run_id(environment: Mapping[str, Any]) -> str:
    """A name of a run that sorts by its day."""
    started = str(environment.get("started_utc", ""))[:10] or "unknown"
    fixed = {name: part for name, part in environment.items() if name not in ADDED}
    return f"{started}-{digest(json.dumps(fixed, sort_keys=True))}"


def torch_version(machine: Mapping[str, Any]) -> str:
    """The version of torch on a machine; empty if its description does not have it."""
    return machine.get("software", {}).get("torch") or ""


def knobs_of(environment: Mapping[str, Any]) -> Mapping[str, str]:
    """The knob of each variant at its default, as the run has recorded them."""
    facts = environment.get("sweep") or environment.get("model") or {}
    found: Mapping[str, str] = facts.get("knobs", {})
    return found


def settings_of(text: str) -> dict[str, str]:
    """Parse `name=value name=value` to a dict; a value may contain spaces."""
    return dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", text))
