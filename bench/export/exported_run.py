"""The cases of a run that an export contains, whether from a run folder or a tracking file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.schema.case import Case
from bench.schema.environment_file import EnvironmentFile
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from bench.schema.run_tables import RunTables
from bench.schema.validation import UserError, name_of, read_json

Values = Mapping[str, Any]  # the columns of `Measurement` by name


class ExportError(UserError, ValueError):
    """A run cannot be exported. The message is one sentence."""


@dataclass(frozen=True)
class ExportedRun:
    """The rows of a run, one for each case.

    Attributes:
        source: the run as a message names it.
        rows: the columns of results.csv, without those of the origin.
        environment: the machines and the software, as in environment.json.
        samples_ms: for each row, the times of all calls; none if the run keeps only quartiles.
    """

    source: str
    rows: Sequence[Values]
    environment: Mapping[str, Any]
    samples_ms: Sequence[Sequence[float]]

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Read results.csv, completed by the journal, and environment.json.

        Raises:
            FileError: a file cannot be read or does not fit.
            ExportError: there are no rows.
        """
        columns = RunTables.read(folder, Measurement).rows
        table = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        last = {tuple(row[name] for name in Case.columns()): row for row in table}
        if not last:
            raise ExportError(f"{name_of(folder)} has no rows: nothing has been measured yet")
        rows = [_completed(row) for row in last.values()]
        environment = read_json(folder / "environment.json", EnvironmentFile)
        return cls(name_of(folder), rows, environment, [()] * len(rows))

    @property
    def timed(self) -> Sequence[tuple[Values, Sequence[float]]]:
        """The rows with status ok, and the times of their calls.

        Raises:
            ExportError: there are none.
        """
        pairs = zip(self.rows, self.samples_ms, strict=True)
        found = [(row, samples) for row, samples in pairs if row["status"] == Status.OK]
        if not found:
            raise ExportError(
                f"{self.source} has no case with status ok, so there is no time to export: "
                f"{self._statuses()}"
            )
        return found

    @property
    def left_out(self) -> str:
        """A sentence about the cases without a time; empty if there are none."""
        missing = sum(row["status"] != Status.OK for row in self.rows)
        if not missing:
            return ""
        return (
            f"{missing} of {len(self.rows)} cases have no time and are left out: {self._statuses()}"
        )

    def _statuses(self) -> str:
        counts = Counter(row["status"] for row in self.rows if row["status"] != Status.OK)
        return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _completed(row: Values) -> Values:
    """The row with its target, which older runs and failed rows lack."""
    if row["target"]:
        return row
    from variants import REGISTRY  # imports torch, which most runs do not need here

    variant = REGISTRY.get(row["variant"])
    return {**row, "target": variant.info.target} if variant else row
