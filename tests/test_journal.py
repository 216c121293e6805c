"""The write-ahead journal: flushed to disk before the run continues, and readable after any
interruption."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench.loop import journal
from bench.loop.journal import FILE, Journal, JournalError
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.schema.validation import FileError
from bench.workloads.sweep_workload import SweepWorkload
from tests.cases import HEAD, HEADER, case, good

FIRST, SECOND = case(seed=1), case(seed=2)


def write(folder: Path) -> Path:
    """A header, one case with its result, and one case that was started and has failed."""
    book = Journal(folder)
    book.header(**HEADER)
    book.started(FIRST)
    book.result(good(FIRST, peak_memory_bytes=12, mass_recall=0.1 + 0.2), Raw([1.0, 2.0], [HEAD]))
    book.started(SECOND)
    book.result(Measurement.of(SECOND, Status.ERROR, "“quoted”\nand \u2028 torn"), Raw())
    book.close()
    return folder / FILE


def test_written_events_are_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    record = journal.read(tmp_path, SweepWorkload)
    assert record.header["environment"] == HEADER["environment"]
    assert record.header["device"] == "cpu"
    assert record.results == {
        FIRST.case_id: good(FIRST, peak_memory_bytes=12, mass_recall=0.1 + 0.2),
        SECOND.case_id: Measurement.of(SECOND, Status.ERROR, "“quoted”\nand \u2028 torn"),
    }
    assert record.results[SECOND.case_id].status is Status.ERROR
    assert {case_id: entry.details for case_id, entry in record.entries.items()} == {
        FIRST.case_id: [HEAD],
        SECOND.case_id: [],
    }
    assert record.attempts == {FIRST.case_id: 1, SECOND.case_id: 1}


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    """Its results count, although its rows lack a column."""
    path = write(tmp_path)
    assert ', "projections": "none"' in path.read_text()
    path.write_text(path.read_text().replace(', "projections": "none"', ""))
    record = journal.read(tmp_path, SweepWorkload)
    assert record.results[FIRST.case_id].case == FIRST


def test_the_raw_samples_are_stored(tmp_path: Path) -> None:
    events = [json.loads(line) for line in write(tmp_path).read_text().splitlines()]
    assert [event.get("samples_ms") for event in events if event["event"] == "result"] == [
        [1.0, 2.0],
        [],
    ]


def test_every_event_is_on_the_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((tmp_path / FILE).read_text()))
    book = Journal(tmp_path)
    book.header(**HEADER)
    book.started(FIRST)
    book.result(good(FIRST), Raw())
    book.interrupted(SECOND)
    assert [text.count("\n") for text in synced] == [1, 2, 3, 4]
    assert all(text.endswith("}\n") for text in synced)
    book.close()


def test_a_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path)
    content = path.read_bytes()
    last = content[:-1].rindex(b"\n") + 1
    assert len(content) - last > 100
    for end in (*range(last, len(content), 11), len(content) - 1):
        path.write_bytes(content[:end])
        record = journal.read(tmp_path, SweepWorkload)
        assert list(record.results) == [FIRST.case_id], end
        assert record.attempts[SECOND.case_id] == 1


def test_a_partial_last_line_is_removed_before_the_next_event_is_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:-1]) + whole[-1][:40])
    book = Journal(tmp_path)
    book.result(good(SECOND), Raw())
    book.close()
    assert path.read_text().startswith("".join(whole[:-1]))
    assert journal.read(tmp_path, SweepWorkload).results[SECOND.case_id] == good(SECOND)


def test_a_complete_last_line_is_kept_when_the_next_event_is_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.read_bytes()
    book = Journal(tmp_path)
    book.started(FIRST)
    book.close()
    assert path.read_bytes().startswith(before)


def test_two_runs_cannot_write_to_one_journal(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    book.header(**HEADER)
    with pytest.raises(JournalError, match="is in use by another run"):
        Journal(tmp_path)
    assert journal.read(tmp_path, SweepWorkload).header["device"] == "cpu"
    book.started(FIRST)
    book.close()
    Journal(tmp_path).close()
    assert journal.read(tmp_path, SweepWorkload).attempts == {FIRST.case_id: 1}


def test_starts_without_a_result_are_counted(tmp_path: Path) -> None:
    for _ in range(2):  # two runs, and both died during the case
        book = Journal(tmp_path)
        book.header(**HEADER)
        book.started(FIRST)
        book.close()
    record = journal.read(tmp_path, SweepWorkload)
    assert record.attempts == {FIRST.case_id: 2}
    assert record.results == {}


def test_an_interrupted_start_does_not_count(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    book.header(**HEADER)
    book.interrupted(FIRST)  # before the case was started
    for _ in range(3):
        book.started(FIRST)
        book.interrupted(FIRST)
    book.started(FIRST)
    book.close()
    assert journal.read(tmp_path, SweepWorkload).attempts == {FIRST.case_id: 1}


@pytest.mark.parametrize("content", [None, "", '{"event": "run", "device": "cpu"}'])
def test_without_a_complete_header_there_is_no_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    assert not journal.begun(tmp_path)
    with pytest.raises(JournalError, match=r"holds no run that could be resumed .no journal\.jso"):
        journal.read(tmp_path, SweepWorkload)


def test_a_journal_with_only_a_header_is_a_run(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    book.header(**HEADER)
    book.close()
    assert journal.begun(tmp_path)
    assert journal.read(tmp_path, SweepWorkload).results == {}


@pytest.mark.parametrize(
    "line",
    [
        b"{not json}\n",
        b"[1, 2]\n",
        b'{"case_id": "no event"}\n',
        b'{"event": "result", "case_id": "x", "row": {"column_of_another_version": 1}}\n',
        b'{"event": "result", "case_id": "x", "row": {"status": "unheard of"}}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_line_that_is_no_event_raises_an_error_that_names_the_file(
    tmp_path: Path, line: bytes
) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + line + b'{"event": "run"}\n')
    with pytest.raises(
        FileError,
        match=r"journal\.jsonl: line 6",
    ):
        journal.read(tmp_path, SweepWorkload)
