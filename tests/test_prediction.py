"""The prediction of time and memory of a sweep, from earlier runs and from operation counts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from bench.cli.commands import main as bench
from bench.instruments import environment, pseudonyms
from bench.loop import journal
from bench.loop.journal import FILE, Journal
from bench.plan import earlier_runs, summary
from bench.plan.prediction import Known, Prediction, Predictor, input_bytes
from bench.schema.case import Case
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.sweep_workload import SweepWorkload
from tests.cases import HEADER, case, good

GIB = 1 << 30


def known(of: Case, seconds: float, shared: float = 0.0, **numbers: Any) -> Known:
    return Known(replace(good(of), **numbers), seconds, shared)


def predict(*cases: Case, known: tuple[Known, ...] = (), **options: Any) -> list[Prediction]:
    """Predictions, on a machine with 0.1 TFLOP/s."""
    asked: dict[str, Any] = {"seconds": 0.2, "timeout": 1e6, "skipped": lambda *_: ""} | options
    rows = {one.row.case.case_id: one for one in known}
    return Predictor(rows, {"float32": 0.1}, **asked).predict(cases)


def linear(**changes: Any) -> Case:
    return case(variant="linear", **changes)


class TestTime:
    def test_a_case_that_was_measured_takes_as_long_again(self) -> None:
        (found,) = predict(linear(), known=(known(linear(), 7.5, 3.0),))
        assert (found.seconds, found.source) == (7.5, "measured")

    def test_the_baselines_of_a_shape_count_once(self) -> None:
        first, second = linear(), case()
        rows = known(first, 2.0), known(second, 10.0, 9.0)
        assert [x.seconds for x in predict(first, second, known=rows)] == [11.0, 1.0]

    def test_time_at_another_length_has_a_fixed_and_a_growing_part(self) -> None:
        """Twice the operations of a linear method from 1024 to 2048 tokens took 4 s more."""
        rows = (
            known(linear(seq_len=1024), 5.0, time_ms_median=1.0),
            known(linear(seq_len=2048), 9.0, time_ms_median=2.0),
            known(case(seq_len=4096), 6.0, 5.0),
        )
        (found,) = predict(linear(seq_len=4096), known=rows)
        assert found.source == "scaled"
        assert found.seconds == pytest.approx(17.0 + 5.0, rel=0.01)

    def test_slow_calls_are_a_lower_bound_of_scaled_time(self) -> None:
        """Nine calls of 40 s: six that are not sampled, and three samples."""
        row = known(linear(seq_len=1024), 1.0, time_ms_median=10_000.0)
        (found,) = predict(linear(seq_len=4096), known=(row,))
        assert found.seconds >= 6 * 40.0

    def test_without_known_rows_the_operations_count(self) -> None:
        """Four times the length is sixteen times the operations of exact attention."""
        few, many = (
            predict(case(seq_len=n, heads=8, head_dim=64))[0].seconds for n in (1 << 14, 1 << 16)
        )
        assert predict(case())[0].source == "counted"
        assert 10 < many / few < 16

    def test_a_case_ends_at_its_timeout(self) -> None:
        row = known(linear(), 100.0, 0.0)
        rows = (row, known(case(), 1.0, 1.0))
        assert predict(linear(), known=rows, timeout=60.0)[0].seconds == 61.0

    def test_a_case_that_the_run_will_skip_takes_no_time(self) -> None:
        row = known(linear(seq_len=1024), 5.0)
        asked = linear(seq_len=2048)
        (found,) = predict(asked, known=(row,), skipped=lambda *_: "it would be too slow")
        assert found.seconds == 0.0

    def test_a_case_that_its_variant_refuses_takes_no_time(self) -> None:
        (found,) = predict(case(variant="linformer", causal=True))
        assert found.seconds == 0.0


class TestMemory:
    def test_the_memory_of_a_measured_case_is_the_measured_one(self) -> None:
        row = known(linear(), 1.0, peak_memory_bytes=1234, process_peak_bytes=4096)
        (found,) = predict(linear(), known=(row,))
        assert found.peak_bytes == 1234
        assert found.needed_bytes == 4096 + input_bytes(linear())

    @pytest.mark.parametrize(("at_2048", "expected"), [(2000, 4000), (4000, 16_000)])
    def test_memory_grows_by_the_power_of_measured_lengths(
        self, at_2048: int, expected: int
    ) -> None:
        rows = (
            known(linear(seq_len=1024), 1.0, peak_memory_bytes=1000),
            known(linear(seq_len=2048), 1.0, peak_memory_bytes=at_2048),
        )
        assert predict(linear(seq_len=4096), known=rows)[0].peak_bytes == expected

    def test_a_case_beyond_the_memory_is_named(self) -> None:
        rows = (known(linear(seq_len=1 << 16), 1.0, peak_memory_bytes=GIB),)
        found = predict(linear(seq_len=1 << 16), linear(seq_len=1 << 18), known=rows)
        said = summary.sentence(found, 0.0, 2 * GIB)
        assert "1 case needs more memory than there is: linear n=262144 " in said
        assert "more memory" not in summary.sentence(found, 0.0, 8 * GIB)

    def test_a_case_that_was_out_of_memory_is_named(self) -> None:
        row = Known(Measurement.of(linear(), Status.OUT_OF_MEMORY, "no memory"), 3.0, 0.0)
        said = summary.sentence(predict(linear(), known=(row,)), 0.0, GIB)
        assert "1 case needs more memory than there is: linear n=32 " in said


def earlier(folder: Path, seconds: float, row: Measurement, **machine: Any) -> Path:
    """A run with one case, on this machine unless `machine` differs."""
    here = environment.processors()
    described = HEADER["environment"] | {
        "host": pseudonyms.host(),
        "hardware": here,
        "software": {"torch": str(torch.__version__)},
        **machine,
    }
    folder.mkdir(parents=True)
    book = Journal(folder)
    book.header(**(HEADER | {"environment": described}))
    book.started(row.case)
    book.result(replace(row, host=described["host"]), Raw(), seconds)
    book.duration({"predicted_seconds": 10.0, "took_seconds": 20.0, "other_seconds": 5.0})
    book.close()
    return folder


class TestEarlierRuns:
    def test_the_runs_in_results_are_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        row = good(case(), peak_memory_bytes=77)
        earlier(tmp_path / "results" / "one", 3.5, row)
        (tmp_path / "results" / "broken").mkdir()
        (tmp_path / "results" / "broken" / FILE).write_text("{\n")
        found = earlier_runs.read([], "cpu")
        assert found.known[row.case.case_id].seconds == 3.5
        assert found.other_seconds == 5.0
        assert summary.earlier(found.durations) == "1 earlier run took 2 times the predicted time"

    @pytest.mark.parametrize(
        ("machine", "said"),
        [
            ({"host": "host-0"}, "host was 'host-0' and is "),
            ({"software": {"torch": "1.0"}}, "torch was '1.0' and is "),
            ({"hardware": {"processor": "Another CPU"}}, "processor was 'Another CPU' and is "),
        ],
    )
    def test_a_run_on_another_machine_is_not_used(
        self, tmp_path: Path, machine: dict[str, Any], said: str
    ) -> None:
        run = earlier(tmp_path / "run", 3.5, good(case()), **machine)
        found = earlier_runs.read([run], "cpu")
        assert not found.known
        assert said in found.left_out[0]

    def test_a_journal_without_times_is_read(self, tmp_path: Path) -> None:
        run = earlier(tmp_path / "run", 3.5, good(case()))
        lines = (run / FILE).read_text().splitlines()
        events = [json.loads(line) for line in lines]
        for event in events:
            event.pop("seconds", None)
            event.pop("shared_seconds", None)
        (run / FILE).write_text("".join(json.dumps(e) + "\n" for e in events))
        assert len(journal.read(run, SweepWorkload).entries) == 1
        assert not earlier_runs.read([run], "cpu").known

    def test_a_missing_run_ends_with_one_sentence(self, tmp_path: Path) -> None:
        words = ["plan", "--set", "seq_len=8", "--from", str(tmp_path / "none")]
        said = CliRunner().invoke(bench, words)
        assert said.exit_code == 2
        assert "holds no run" in said.output


@pytest.mark.serial  # it measures
def test_the_second_run_of_a_sweep_takes_as_long_as_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    axes = ["--device", "cpu", "--set", "seq_len=128,256", "--set", "variant=linear,lsh"]
    axes += ["--set", "settings=default"]
    run = ("run", "--seconds", "0.05", "--out")

    def said(*words: str) -> str:
        done = CliRunner().invoke(bench, [*words, *axes], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    said(*run, "results/first")
    count = len(journal.read(Path("results/first"), SweepWorkload).entries)
    planned = said("plan")
    assert re.search(rf"{count} cases, about .* \(.*\): {count} measured before", planned)
    rest = said("plan", "--resume", "results/first")
    assert "nothing is left to measure" in rest
    output = said(*run, "results/second")
    found = re.search(r"predicted .*, took .*: ([\d.]+) times", output)
    assert found, output
    assert 0.5 < float(found[1]) < 2.0
    (duration,) = json.loads(Path("results/second/environment.json").read_text())["durations"]
    assert 0.5 < duration["took_seconds"] / duration["predicted_seconds"] < 2.0
