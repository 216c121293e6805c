"""Rows that a journal has and the tables lack are in reports and comparisons."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.commands import main as bench
from bench.instruments import roofline
from bench.loop.journal import FILE, Journal
from bench.loop.result_files import write_json, write_table
from bench.loop.workload import Entry
from bench.plan.sweep import parse
from bench.schema import run_tables
from bench.schema.measurement import HeadRow, Measurement, Raw
from bench.schema.outcome import Status
from bench.schema.run_tables import RunTables
from bench.schema.validation import FileError
from bench.workloads.sweep_workload import SweepWorkload
from reports.__main__ import main as reports
from reports.rows import read_runs
from tests.cases import ENVIRONMENT, HEAD, HEADER, good

SWEEP = parse(
    "mine", {"variant": ["full", "linear"], "seq_len": [16, 32], "heads": [2], "causal": [True]}
)
WORKLOAD = SweepWorkload(SWEEP, "cpu", {}, 0.2, 9.0)
TABLES = ("results.csv", "heads.csv")


def row(number: int, time: float = 1.0) -> Measurement:
    one = good(WORKLOAD.cases[number], approx_error_rel_l2=0.5, peak_memory_bytes=2**20, repeats=3)
    return Measurement.of_values(one.values | {"time_ms_median": time})


def append(folder: Path, rows: Sequence[Measurement]) -> None:
    """Results as a run writes them to its journal."""
    journal = Journal(folder)
    for each in rows:
        journal.started(each.case)
        journal.result(each, Raw([1.0], [HEAD] if each.status is Status.OK else []))
    journal.close()


def entries_of(rows: Sequence[Measurement]) -> dict[str, Entry[Measurement]]:
    return {each.case.case_id: Entry(each, [HEAD]) for each in rows}


def aged(folder: Path, seconds: float, *names: str) -> None:
    """Make files older than they are."""
    for name in names:
        times = (folder / name).stat()
        os.utime(folder / name, (times.st_atime - seconds, times.st_mtime - seconds))


@pytest.mark.parametrize(
    ("status", "reason", "shown"),
    [
        ("incorrect", roofline.implausible(1.28, 1.0), Status.IMPLAUSIBLE_TIME),
        ("incorrect", "the output differs from its own dense definition by 0.1", Status.INCORRECT),
        ("implausible_time", roofline.implausible(1.28, 1.0), Status.IMPLAUSIBLE_TIME),
    ],
)
def test_an_implausible_time_of_an_older_run_is_not_an_incorrect_output(
    tmp_path: Path, status: str, reason: str, shown: Status
) -> None:
    case = WORKLOAD.cases[0]
    older = Measurement.of(case, Status(status), reason)
    write_table(tmp_path / "results.csv", Measurement.columns(), [older.values])
    assert RunTables.read(tmp_path, Measurement).rows["status"] == [shown]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A run that was killed: its tables have two cases, its journal four, one of them again."""
    folder = tmp_path / "run"
    folder.mkdir()
    environment = {**HEADER["environment"], **WORKLOAD.facts()}
    journal = Journal(folder)
    journal.header(command="run", environment=environment, **WORKLOAD.header())
    journal.close()
    write_json(folder / "environment.json", environment)
    first = [row(0), row(1)]
    append(folder, first)
    WORKLOAD.write(folder, entries_of(first), environment)
    timeout = Measurement.of(WORKLOAD.cases[3], Status.TIMEOUT, "took longer than 9 s")
    append(folder, [row(2, 3.0), timeout, row(0, 7.0)])
    aged(folder, 5, *TABLES)
    return folder


def whole(folder: Path) -> None:
    """The report has all rows of the journal, the last one of each case, and their heads."""
    runs = read_runs([folder])
    assert sorted(runs.frame["time_ms_median"].fillna(0)) == [0.0, 1.0, 3.0, 7.0]
    assert len(runs.per_head) == 3
    assert set(runs.frame.loc[runs.per_head["case"], "status"]) == {"ok"}


def test_a_report_has_the_results_that_its_table_lacks(killed: Path) -> None:
    before = {name: (killed / name).read_bytes() for name in (*TABLES, FILE)}
    whole(killed)
    made = CliRunner().invoke(reports, ["build", str(killed)], catch_exceptions=False)
    assert made.exit_code == 0
    assert "4 cases: 3 ok, 1 timeout" in made.stdout
    assert {name: (killed / name).read_bytes() for name in before} == before


def test_there_is_one_row_for_each_case(killed: Path) -> None:
    assert len(RunTables.read(killed, Measurement, "heads.csv").rows["status"]) == 4


def test_a_result_that_replaces_another_one_is_seen(killed: Path) -> None:
    rows = [row(0), row(1), row(2), row(3)]
    append(killed, rows)
    WORKLOAD.write(killed, entries_of(rows), ENVIRONMENT)
    aged(killed, 5, *TABLES)
    append(killed, [row(2, 9.0)])
    assert sorted(read_runs([killed]).frame["time_ms_median"]) == [1.0, 1.0, 1.0, 9.0]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_may_be_absent(killed: Path, name: str) -> None:
    (killed / name).unlink()
    whole(killed)


def test_a_copy_with_other_times_of_files_is_completed_too(killed: Path) -> None:
    now = (killed / FILE).stat().st_mtime
    for name in TABLES:
        os.utime(killed / name, (now + 9, now + 9))
    assert len(read_runs([killed]).frame) == 4


def test_a_comparison_has_the_results_that_a_table_lacks(killed: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(killed, tmp_path / "other"))
    (other / "results.csv").unlink()
    said = CliRunner(env={"COLUMNS": "200"}).invoke(bench, ["compare", str(killed), str(other)])
    assert "4 cases in both runs" in said.stdout
    assert "7.000" in said.stdout


def test_the_journal_is_not_read_if_the_tables_have_all_results(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(2), row(3), row(0), row(1)]
    append(killed, rows)
    WORKLOAD.write(killed, entries_of(rows), ENVIRONMENT)

    def refuse(folder: Path) -> None:
        pytest.fail("the lines of the journal were read")

    monkeypatch.setattr(run_tables, "events", refuse)
    assert len(read_runs([killed]).frame) == 4


def test_rows_that_only_the_table_has_are_kept(killed: Path) -> None:
    content = (killed / FILE).read_text().splitlines(keepends=True)
    gone = json.dumps({"event": "result", "case_id": row(1).case.case_id})[:-1]
    (killed / FILE).write_text("".join(line for line in content if not line.startswith(gone)))
    whole(killed)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ('"time_ms_median": 3.0', '"time_ms_median": -3.0'),
        ('"time_ms_median": 3.0', '"time_ms_median": null'),
        ('"seq_len": 16', '"seq_len": 17'),
        ('"event": "started"', '"event": "begun"'),
        ('"batch_index": 0', '"batch_index": -1'),
    ],
)
def test_a_line_that_does_not_fit_is_named(killed: Path, found: str, wanted: str) -> None:
    text = (killed / FILE).read_text()
    assert found in text
    (killed / FILE).write_text(text.replace(found, wanted))
    with pytest.raises(FileError, match=r"journal\.jsonl: line \d+: .*(expected|needs)"):
        read_runs([killed])


def test_an_incomplete_last_line_is_ignored(killed: Path) -> None:
    text = (killed / FILE).read_bytes()
    (killed / FILE).write_bytes(text[: text.rstrip(b"\n").rindex(b"\n") + 99])
    times = read_runs([killed]).frame["time_ms_median"]
    assert sorted(times.fillna(0)) == [0.0, 1.0, 1.0, 3.0]


def test_a_run_that_was_killed_before_its_first_result_is_refused(killed: Path) -> None:
    for name in TABLES:
        (killed / name).unlink()
    (killed / FILE).write_text((killed / FILE).read_text().splitlines()[0] + "\n")
    with pytest.raises(FileError, match=r"results\.csv has no rows: nothing has been measured yet"):
        read_runs([killed])


def test_a_run_without_a_second_table_has_no_details(killed: Path) -> None:
    (killed / FILE).unlink()
    (killed / "heads.csv").unlink()
    assert RunTables.read(killed, Measurement).details("heads.csv", HeadRow) is None
