"""The table of two stored runs: the ratio of the times of each case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.table import Table
from rich.text import Text

from bench.schema.case import Case
from bench.schema.environment_file import EnvironmentFile
from bench.schema.machine_kind import (
    hardware_differences,
    installation_differences,
    machine_of,
)
from bench.schema.measurement import Measurement
from bench.schema.origin import settings_of
from bench.schema.outcome import Status
from bench.schema.run_tables import RunTables
from bench.schema.validation import UserError, name_of, read_json

Key = tuple[Any, ...]
Values = dict[str, Any]
FASTER, SLOWER, NOISE, UNTIMED = "faster", "slower", "within noise", "without two times"


class CompareError(UserError, ValueError):
    """Two runs cannot be compared. The message is one sentence."""


@dataclass(frozen=True)
class StoredRun:
    """The last row of each case of a run, and the description of its machines."""

    rows: Mapping[Key, Values]
    environment: Mapping[str, Any]

    @classmethod
    def read(cls, run: Path) -> Self:
        columns = RunTables.read(run, Measurement).rows
        rows = (
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        )
        return cls(
            {tuple(row[name] for name in Case.columns()): row for row in rows},
            read_json(run / "environment.json", EnvironmentFile),
        )

    def machine(self, case: Key) -> Mapping[str, Any]:
        """The machine that measured a case."""
        return machine_of(self.environment, self.rows[case]["host"])


def table(before: Path, after: Path) -> Table:
    """A row for each case that is in both runs, with the ratio of the medians.

    If the quartiles overlap, the difference may be noise; the row notes this. The title names what
    all cases share, and the caption counts the faster and the slower ones. Cases that machines of
    different hardware measured are left out, and the caption says so. It also names differences of
    software and settings, which two runs may have on purpose.

    FileError if a run cannot be read. CompareError if the runs have no case in common, or none that
    the same kind of hardware measured.
    """
    earlier, later = StoredRun.read(before), StoredRun.read(after)
    common = sorted((case for case in earlier.rows if case in later.rows), key=_order)
    if not common:
        raise CompareError(f"{name_of(before)} and {name_of(after)} have no case in common")
    both, other_hardware, installations = [], Counter[str](), dict[str, None]()
    for case in common:
        machines = earlier.machine(case), later.machine(case)
        if found := hardware_differences(*machines):
            other_hardware["; ".join(found)] += 1
        else:
            both.append((earlier.rows[case], later.rows[case]))
            installations |= dict.fromkeys(installation_differences(*machines))
    if not both:
        raise CompareError(
            f"{name_of(before)} and {name_of(after)} were measured on different hardware: "
            f"{' | '.join(other_hardware)}"
        )
    notes = [f"{_cases(count)} left out: {why}" for why, count in other_hardware.items()]
    notes += installations
    labels, shared = labels_of([row for row, _ in both])
    pairs = [TimePair(*rows) for rows in both]
    shown = Table(
        title=Text(f"{_cases(len(both))} in both runs; ratio below 1 is faster\n{shared}"),
        caption=Text("\n".join([_counted(pairs), *notes])),
        caption_justify="left",
    )
    for column in ("case", "before, ms", "after, ms", "ratio", ""):
        shown.add_column(column, justify="left" if column in ("case", "") else "right")
    for label, pair in zip(labels, pairs, strict=True):
        shown.add_row(Text(label), *pair.cells)
    return shown


@dataclass(frozen=True)
class TimePair:
    """A case in both runs."""

    before: Values
    after: Values

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, `within noise` if the quartiles overlap, or `without two times`."""
        times = self._times
        if times is None:
            return UNTIMED
        both = (self.before, self.after)
        quartiles = [row[f"time_ms_{name}"] for name in ("q1", "q3") for row in both]
        if None not in quartiles:
            first_before, first_after, third_before, third_after = quartiles
            if first_before <= third_after and first_after <= third_before:
                return NOISE
        if times[0] == times[1]:
            return NOISE
        return FASTER if times[1] < times[0] else SLOWER

    @property
    def cells(self) -> tuple[str, ...]:
        """Both times, their ratio and a note; the statuses if a time is missing."""
        times = self._times
        if times is None:
            return str(self.before["status"]), str(self.after["status"]), "", ""
        note = "quartiles overlap" if self.verdict == NOISE else ""
        return f"{times[0]:.3f}", f"{times[1]:.3f}", f"{times[1] / times[0]:.3f}", note

    @property
    def _times(self) -> tuple[float, float] | None:
        times = self.before["time_ms_median"], self.after["time_ms_median"]
        statuses = {self.before["status"], self.after["status"]}
        return None if None in times or statuses != {Status.OK} else times


def labels_of(rows: Sequence[Values]) -> tuple[list[str], str]:
    """A label for each row, and the words that all rows share.

    A label has the columns of the case that vary in these rows, and the hyperparameters that vary
    in the rows of its variant. Rows of different cases have different labels.
    """
    of_variant: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        of_variant.setdefault(row["variant"], []).append(settings_of(row["hyperparameters"]))
    hyperparameters = {variant: _varying(own) for variant, own in of_variant.items()}
    words = [{name: say(row) for name, say in WORDS.items()} for row in rows]
    varying = _varying(words)
    labels = []
    for row, own in zip(rows, words, strict=True):
        name, used = row["variant"], row["implementation"]
        settings = settings_of(row["hyperparameters"])
        parts = [
            name if used == "auto" else f"{name}/{used}",
            *(f"{key}={settings[key]}" for key in hyperparameters[name] if key in settings),
            *(own[column] for column in varying),
        ]
        labels.append(" ".join(filter(None, parts)))
    shared = (word for column, word in words[0].items() if column not in varying)
    return labels, " ".join(filter(None, shared))


def _varying(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The names with several values, or that only some rows have."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if len({row.get(name) for row in rows}) > 1]


# The words of each column of a case in a label, except for those of the attention.
WORDS: Mapping[str, Callable[[Values], str]] = {
    "inputs": lambda row: str(row["inputs"]),
    "layer": lambda row: "" if row["layer"] is None else f"layer={row['layer']}",
    "device": lambda row: str(row["device"]),
    "dtype": lambda row: str(row["dtype"]),
    "causal": lambda row: "causal" if row["causal"] else "not causal",
    "direction": lambda row: str(row["direction"]),
    "batch": lambda row: f"batch={row['batch']}",
    "seq_len": lambda row: f"n={row['seq_len']}",
    "key_len": lambda row: _other(row, "key_len", "seq_len"),
    "heads": lambda row: f"h={row['heads']}",
    "kv_heads": lambda row: _other(row, "kv_heads", "heads"),
    "head_dim": lambda row: f"head_dim={row['head_dim']}",
    "seed": lambda row: f"seed={row['seed']}",
    "projections": lambda row: (
        "" if row["projections"] == "none" else f"{row['projections']} projections"
    ),
    "launch": lambda row: "" if row["launch"] == "eager" else f"in a {row['launch']}",
}


def _other(row: Values, name: str, usual: str) -> str:
    return "" if row[name] == row[usual] else f"{name}={row[name]}"


def _counted(pairs: Sequence[TimePair]) -> str:
    """The number of pairs with each verdict: `12 faster, 3 slower, 213 within noise`."""
    counts = Counter(pair.verdict for pair in pairs)
    words = [FASTER, SLOWER, NOISE, *([UNTIMED] if counts[UNTIMED] else [])]
    return ", ".join(f"{counts[word]} {word}" for word in words)


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _order(case: Key) -> list[tuple[bool, Any]]:
    """Sorts cases by their columns; an empty value comes last."""
    return [(value is None, 0 if value is None else value) for value in case]
