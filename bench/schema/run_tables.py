"""Reads the tables of a run, completed by its journal.

A run that was killed may have results in its journal that its tables lack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.schema.columns import Column, Record
from bench.schema.csv_columns import read_csv
from bench.schema.journal_lines import JOURNAL, details_of, events, number_of_results
from bench.schema.outcome import present_status
from bench.schema.row import Row
from bench.schema.validation import FileError, is_file, is_folder

Values = dict[str, list[Any]]  # by column
Key = tuple[Any, ...]  # the columns of a case


@dataclass(frozen=True)
class RunTables:
    """The rows of a run by column, one for each case, and the results of its journal.

    `results` is empty if the tables have all results. Nothing in the folder is changed.
    """

    folder: Path
    row_type: type[Row[Any]]
    rows: Values
    results: Mapping[Key, tuple[str, dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path, row_type: type[Row[Any]], detail_file: str = "") -> Self:
        """Read the rows of a folder.

        Args:
            folder: folder of a run.
            row_type: the type of the rows.
            detail_file: name of the second table of the run, if it has one.

        Raises:
            FileError: a table or a line of the journal cannot be read or does not fit, or the
                folder has neither.
        """
        columns = row_type.columns()
        path = folder / row_type.file
        if not is_file(path) and not is_file(folder / JOURNAL):
            read_csv(path, columns)  # says why
        rows = _read(path, columns)
        files = [path, folder / detail_file] if detail_file else [path]
        lags = _lags(folder, files, len(rows["status"]))
        results = _results(folder, row_type) if lags else {}
        if results:
            added = [row_type.completed(event["row"]) for _, event in results.values()]
            rows = _joined(rows, added, row_type, results)
        rows["status"] = list(map(present_status, rows["status"], rows["reason"]))
        return cls(folder, row_type, rows, results)

    def details(self, name: str, record: type[Record]) -> Values | None:
        """The second table, with the columns of the case; None if the run has none."""
        columns = {**self.row_type.case_type.columns(), **record.columns()}
        path = self.folder / name
        if not is_file(path) and not self.results:
            return None
        added: list[dict[str, Any]] = []
        for source, event in self.results.values():
            case = self.row_type.case_type.completed(event["row"])
            try:
                added += [case | record.completed(detail) for detail in details_of(event)]
            except ValueError as error:
                raise FileError(f"{source}: {error}") from None
        return _joined(_read(path, columns), added, self.row_type, self.results)


def _read(path: Path, columns: Mapping[str, Column]) -> Values:
    if is_file(path) or is_folder(path):  # the message about a folder is that of other files
        return read_csv(path, columns)
    return {name: [] for name in columns}


def _lags(folder: Path, tables: Sequence[Path], rows: int) -> bool:
    """Whether the tables may lack a result of the journal.

    The times of files decide, except in a copy, which may have other times: it lags if it has fewer
    rows.
    """
    journal = folder / JOURNAL
    if not is_file(journal):
        return False
    if not all(map(is_file, tables)):
        return True
    written = journal.stat().st_mtime_ns
    if any(table.stat().st_mtime_ns < written for table in tables):
        return True
    return rows < number_of_results(folder)


def _results(folder: Path, row_type: type[Row[Any]]) -> dict[Key, tuple[str, dict[str, Any]]]:
    """The last result of each case of a journal, and its place."""
    found = {}
    for source, event in events(folder):
        if event["event"] != "result":
            continue
        try:
            row_type.check(event["row"])
        except ValueError as error:
            raise FileError(f"{source}: {error}") from None
        case = row_type.case_type.completed(event["row"])
        if (case_id := row_type.case_type.id_of(case)) != event["case_id"]:
            raise FileError(
                f"{source}: expected the row of case {event['case_id']}, got that of {case_id}"
            )
        found[tuple(case.values())] = source, event
    return found


def _joined(
    table: Values,
    added: Iterable[Mapping[str, Any]],
    row_type: type[Row[Any]],
    results: Mapping[Key, Any],
) -> Values:
    """The rows of a table whose cases have no result in the journal, and then others."""
    keys = zip(*(table[name] for name in row_type.case_type.columns()), strict=True)
    kept = [number for number, key in enumerate(keys) if key not in results]
    more = list(added)
    return {
        name: [values[number] for number in kept] + [row[name] for row in more]
        for name, values in table.items()
    }
