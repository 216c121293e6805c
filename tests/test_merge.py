"""Shards of a sweep, and the merge of their journals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli.commands import main
from bench.instruments import roofline
from bench.loop import journal, run_loop
from bench.loop.machines import RunError
from bench.loop.merge import merge, missing, missing_shards, read_parts
from bench.plan.shard import Shard
from bench.plan.sweep import Sweep, SweepError
from bench.schema.journal_lines import events
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.selfcheck import same_code
from bench.workloads.attention import measure_case
from bench.workloads.sweep_workload import SweepWorkload
from tests import cases
from tests.cases import HEAD, good
from tests.in_process import InProcess

AXES = {
    "variant": ("full implementation=sdpa", *(f"lsh num_hashes={n}" for n in range(1, 9))),
    "seq_len": (16, 32, 64),
    "heads": (2, 4),
    "head_dim": (16,),
}
COUNT = 3


def measured(asked: Any, given: Any, exact: bool) -> tuple[Measurement, Raw]:
    """A row that depends on the case alone; one series runs out of memory."""
    if asked.attention.hyperparameters.startswith("bucket_size=64 num_hashes=3"):
        return Measurement.of(asked, Status.OUT_OF_MEMORY, "too much"), Raw()
    return good(asked, approx_error_rel_l2=0.25), Raw([1.0], [HEAD])


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs measure nothing."""
    monkeypatch.setattr(measure_case, "measure", measured)
    monkeypatch.setattr(measure_case, "measure_exact", cases.no_exact)
    monkeypatch.setattr(roofline, "measure_device", cases.limits)
    monkeypatch.setattr(same_code, "short", lambda *_: {"resolution": 0.1})


def workload(shard: Shard | None = None, **axes: Any) -> SweepWorkload:
    return SweepWorkload(Sweep("tiny", (AXES | axes,)), "cpu", {}, 0.01, 60.0, (), shard)


def run(folder: Path, shard: Shard | None = None, **axes: Any) -> Path:
    run_loop.run(workload(shard, **axes), folder, InProcess())
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [run(tmp_path / f"{n}", Shard(n, COUNT)) for n in range(1, COUNT + 1)]


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every event of a journal."""
    path = folder / journal.FILE
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        change(event)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_every_case_is_in_one_shard_with_all_cases_that_it_may_skip() -> None:
    whole = workload().cases
    parts = [Shard(n, COUNT).select(whole) for n in range(1, COUNT + 1)]
    assert sorted(c.case_id for part in parts for c in part) == sorted(c.case_id for c in whole)
    assert min(map(len, parts)) > 0
    series = [{case.without_lengths() for case in part} for part in parts]
    assert not series[0] & series[1]
    assert not series[0] & series[2]
    # The planned order, shortest first, stays.
    assert [c for c in whole if c in parts[0]] == parts[0]


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/3", "a/b", "1.0/2"])
def test_text_that_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(SweepError, match="a shard is NUMBER/COUNT"):
        Shard.parse(text)


def cells(file: Path) -> list[dict[str, str]]:
    """The rows of a table without the name of the run, which has the time of its start."""
    with file.open(newline="") as table:
        return [{**row, "run_id": ""} for row in csv.DictReader(table)]


def test_merged_shards_are_the_run_on_one_machine(tmp_path: Path, shards: list[Path]) -> None:
    one = run(tmp_path / "one")
    parts = read_parts(shards)
    assert missing(parts) == []
    assert missing_shards(parts) == []
    out = tmp_path / "merged"
    assert merge(parts, out) == len(workload().cases)
    for name in ("results.csv", "heads.csv"):
        merged_rows, whole_rows = (cells(folder / name) for folder in (out, one))
        assert merged_rows == whole_rows != []
    merged, whole = (json.loads((f / "environment.json").read_text()) for f in (out, one))
    assert merged["sweep"] == whole["sweep"]
    assert merged["selfchecks"] == whole["selfchecks"]
    # The merged run has nothing left to measure.
    recorded = journal.read(out, SweepWorkload)
    worker = InProcess()
    run_loop.run(SweepWorkload.of_header(recorded.header), out, worker, recorded)
    assert "measured" not in worker.timeouts
    samples = [event["samples_ms"] for _, event in events(out) if event["event"] == "result"]
    assert [1.0] in samples


def test_missing_cases_are_named_and_can_be_measured(tmp_path: Path, shards: list[Path]) -> None:
    parts = read_parts(shards[:2])
    left = missing(parts)
    assert {case.case_id for case in left} == {
        case.case_id for case in workload(Shard(3, COUNT)).cases
    }
    assert missing_shards(parts) == [3]
    out = tmp_path / "merged"
    merge(parts, out)
    recorded = journal.read(out, SweepWorkload)
    rows = run_loop.run(SweepWorkload.of_header(recorded.header), out, InProcess(), recorded)
    assert [row.case for row in rows] == workload().cases


def test_the_same_run_twice_is_merged_once(tmp_path: Path, shards: list[Path]) -> None:
    assert merge(read_parts([shards[0], shards[0]]), tmp_path / "out") == len(
        workload(Shard(1, COUNT)).cases
    )


def test_a_run_of_another_sweep_is_refused(tmp_path: Path, shards: list[Path]) -> None:
    other = run(tmp_path / "other", Shard(2, COUNT), seq_len=(16, 32))
    with pytest.raises(
        RunError,
        match=r"expected seq_len of group 1 \[16, 32, 64\], got \[16, 32\]",
    ):
        read_parts([shards[0], other])


@pytest.mark.parametrize(
    ("name", "value"), [("torch", "1.0"), ("attention-benchmark", "9"), ("commit", "other")]
)
def test_a_run_of_another_version_is_refused(shards: list[Path], name: str, value: str) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            event["environment"]["software"][name] = value

    edit(shards[1], change)
    with pytest.raises(RunError, match=f"another installation .*1: {name} was .* is '{value}'"):
        read_parts(shards)


def test_a_host_that_is_described_in_two_ways_is_refused(shards: list[Path]) -> None:
    def change(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            event["environment"]["hardware"]["threads"] = 77

    edit(shards[2], change)
    with pytest.raises(RunError, match=r"3 was measured with another installation .*1: threads"):
        read_parts(shards)


def test_different_rows_for_one_case_are_refused_and_named(
    tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        measure_case, "measure", lambda asked, *_: (good(asked, time_ms_median=7.0), Raw())
    )
    again = run(tmp_path / "again", Shard(1, COUNT))
    with pytest.raises(RunError, match=r"different rows for \d+: .* in .*1 and .*again; .*more"):
        read_parts([shards[0], again])


def test_a_row_of_a_case_that_is_not_in_the_sweep_is_refused(
    tmp_path: Path, shards: list[Path]
) -> None:
    longer = run(tmp_path / "longer", Shard(1, COUNT), seq_len=(128,))
    lines = (longer / journal.FILE).read_text().splitlines(keepends=True)
    with (shards[0] / journal.FILE).open("a") as file:
        file.write(next(line for line in lines if '"event": "result"' in line))
    with pytest.raises(RunError, match=r"1 has a row of another sweep: .* n=128 "):
        read_parts(shards)


def test_a_folder_with_a_run_is_not_overwritten(shards: list[Path]) -> None:
    before = (shards[1] / journal.FILE).read_bytes()
    with pytest.raises(RunError, match="2 holds a run already; give another --out"):
        merge(read_parts(shards), shards[1])
    assert (shards[1] / journal.FILE).read_bytes() == before


def test_runs_without_shards_have_no_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected runs with --shard NUMBER/COUNT"):
        missing_shards(read_parts([run(tmp_path / "one")]))


def merged(*words: object) -> tuple[int, str, str]:
    """The exit status, the output and the messages of `python -m bench merge`."""
    result = CliRunner().invoke(main, ["merge", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_shards_that_ended_early(shards: list[Path]) -> None:
    assert merged(*shards, "--missing") == (0, "\n", "")
    first, second = (folder / journal.FILE for folder in shards[:2])
    second.write_text(
        "".join(second.read_text().splitlines(keepends=True)[:-3])
    )  # no last row, no check, no duration
    assert merged(*shards, "--missing") == (0, "2\n", "")
    first.write_text('{"event": "ru')  # died in its first line
    assert merged(*shards, "--missing") == (0, "1,2\n", "")
    assert merged(*shards[1:], "--missing") == (0, "1,2\n", "")


def test_a_case_with_the_row_of_a_failure_is_not_missing(shards: list[Path]) -> None:
    rows = [row for part in read_parts(shards) for row in part.recorded.results.values()]
    assert Status.OUT_OF_MEMORY in {row.status for row in rows}
    assert missing_shards(read_parts(shards)) == []


def test_runs_that_have_all_died_at_once_are_refused(shards: list[Path]) -> None:
    for folder in shards:
        (folder / journal.FILE).write_text("")
    status, out, said = merged(*shards, "--missing")
    assert (status, out) == (2, "")
    assert "1 holds no run that could be resumed" in said


def test_a_folder_without_a_journal_is_refused(tmp_path: Path, shards: list[Path]) -> None:
    (tmp_path / "other").mkdir()
    status, _, said = merged(*shards, tmp_path / "other", "--missing")
    assert status == 2
    assert "other holds no run that could be resumed" in said


def test_more_shards_than_series_can_be_merged(tmp_path: Path) -> None:
    count = 64
    parts = [run(tmp_path / f"{n}", Shard(n, count)) for n in range(1, count + 1)]
    assert any(journal.is_empty(folder) for folder in parts)
    assert merged(*parts, "--missing") == (0, "\n", "")
    status, _, said = merged(*parts, "--out", tmp_path / "out")
    assert (status, said) == (0, f"{len(workload().cases)} rows; every case has a row\n")
