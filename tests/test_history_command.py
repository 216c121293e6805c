"""`python -m reports history`: its files, its table, and files that it cannot use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from pytest_benchmark.stats import Stats

from bench.schema.validation import FileError
from reports.__main__ import main
from reports.history.metric_series import histories
from reports.history.step_search import FEWEST
from reports.history.stored_files import read_history, read_tracked
from tests.stored_history import (
    MACHINE,
    Call,
    benchmark,
    case_of,
    machine_of,
    save,
    save_commits,
    stored,
)
from tests.test_history import moved_at_eight, with_numbers


def ask(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["history", *map(str, words)])


def changed_case(value: Any) -> dict[str, Any]:
    content = stored([Call()], 1)
    content["benchmarks"][0]["extra_info"]["case"] = value
    return content


def without(*path: str | int) -> dict[str, Any]:
    content = stored([Call()], 1)
    inner: Any = content
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return content


def with_times(data: Sequence[Any]) -> dict[str, Any]:
    content = stored([Call()], 1)
    content["benchmarks"][0]["stats"]["data"] = data
    return content


WHOLE = json.dumps(stored([Call()], 1))
BAD: Mapping[str, tuple[str, str]] = {
    "truncated": (WHOLE[:900], "is not a JSON file"),
    "empty": ("", "is not a JSON file"),
    "list": ("[]", "is no stored run of `make track`: expected the schema"),
    "coverage": ('{"files": {}}', "is no stored run of `make track`.*machine_info"),
    "other schema": (
        json.dumps(stored([Call()], 1, machine={**MACHINE, "schema": "attention-tracking-2"})),
        "expected the schema attention-tracking-1 in machine_info, got 'attention-tracking-2'",
    ),
    "no schema": (
        json.dumps(stored([Call()], 1, machine={"node": "here"})),
        "expected the schema attention-tracking-1 in machine_info, got None",
    ),
    "no fingerprint": (
        json.dumps(without("machine_info", "fingerprint")),
        "machine_info: expected the name fingerprint",
    ),
    "no commit": (json.dumps(without("commit_info")), "expected the name commit_info"),
    "no times": (json.dumps(with_times([])), r"benchmarks\[0\].stats.data: .* length >= 1"),
    "negative time": (json.dumps(with_times([-1.0])), r"stats.data\[0\]: .* > 0.0"),
    "infinite time": (
        json.dumps(with_times([1.0, float("inf")])),
        r"benchmarks\[0\].stats.data\[1\]: .*, got inf",
    ),
    "no case": (json.dumps(changed_case(None)), "expected the columns of a case"),
    "nested case": (
        json.dumps(changed_case({**case_of(Call()), "later_column": [4]})),
        r"benchmarks\[0\].extra_info.case.later_column: expected one value, got \[4\]",
    ),
    "wrong case": (
        json.dumps(changed_case({**case_of(Call()), "heads": 0})),
        r"benchmarks\[0\].extra_info.case: heads: expected a whole number from 1 to 2\^31, got 0",
    ),
    "no implementation": (
        json.dumps(without("benchmarks", 0, "extra_info", "implementation_used")),
        r"benchmarks\[0\].extra_info.implementation_used: expected `str`, got None",
    ),
    "no benchmarks": (json.dumps({**stored([Call()], 1), "benchmarks": []}), "length >= 1"),
    "bad time": (
        json.dumps({**stored([Call()], 1), "datetime": "yesterday"}),
        "datetime: expected a time in ISO 8601, got 'yesterday'",
    ),
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD)
    def test_a_bad_file_is_left_out_and_named_and_the_others_are_used(
        self, tmp_path: Path, name: str
    ) -> None:
        save_commits(tmp_path, 2, lambda _: [Call()])
        text, reason = BAD[name]
        (tmp_path / "0009_bad.json").write_text(text, encoding="utf-8")
        done = ask(tmp_path, "--out", tmp_path / "page")
        assert done.exit_code == 0, done.output
        assert f"left out: {tmp_path}/0009_bad.json" in done.stderr
        page = (tmp_path / "page" / "history.html").read_text(encoding="utf-8")
        assert "<strong>1 file left out</strong>" in page
        (sentence,) = read_history(tmp_path).skipped
        assert re.search(reason, sentence), sentence

    def test_facts_that_contradict_their_fingerprint_are_left_out(self, tmp_path: Path) -> None:
        save_commits(tmp_path, 2, lambda _: [Call()])
        hardware = {**MACHINE["hardware"], "cores": 64}
        save(tmp_path, stored([Call()], 3, machine={**MACHINE, "hardware": hardware}), 9)
        (sentence,) = read_history(tmp_path).skipped
        facts = machine_of(cores=64)["fingerprint"]
        assert (
            f"has the fingerprint {MACHINE['fingerprint']!r}, and its facts give {facts}"
            in sentence
        )
        assert "changed after it was stored" in sentence

    @pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5, 6, 7, 8])
    def test_statistics_that_the_times_do_not_give_are_refused(
        self, tmp_path: Path, rounds: int
    ) -> None:
        times = Stats()
        for each in (1.0, 1.3, 0.9, 1.1, 1.7, 1.2, 1.05, 0.97)[:rounds]:
            times.update(each)
        content = stored([Call()], 1)
        before = {**times.as_dict(), "data": times.data, "iterations": 1}
        content["benchmarks"][0]["stats"] = before
        assert read_tracked(save(tmp_path, content, 1)).content.benchmarks[0].stats.data
        names = {*times.fields} - {"stddev_outliers", "iqr_outliers", "outliers"}
        for name in sorted(names):
            changed = before[name] + 1 if name == "rounds" else 2.3 * before[name] + 1e-6
            content["benchmarks"][0]["stats"] = {**before, name: changed}
            path = save(tmp_path, content, 2)
            with pytest.raises(FileError, match=rf"stats\.{name} is .* was changed after"):
                read_tracked(path)

    @pytest.mark.parametrize("kind", ["missing", "empty", "file", "only bad files"])
    def test_a_folder_without_runs_is_refused_and_nothing_is_written(
        self, tmp_path: Path, kind: str
    ) -> None:
        folder = tmp_path / "track"
        if kind == "file":
            folder.write_text("", encoding="utf-8")
        elif kind != "missing":
            folder.mkdir()
        if kind == "only bad files":
            (folder / "a.json").write_text(WHOLE[:50], encoding="utf-8")
            (folder / "b.json").write_text(WHOLE[:50], encoding="utf-8")
        done = ask(folder, "--out", tmp_path / "out")
        assert done.exit_code == 2
        assert str(folder) in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_a_failure_leaves_the_files_of_an_earlier_call(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_commits(tmp_path, 2, lambda _: [Call()])
        out = tmp_path / "out"
        assert ask(tmp_path, "--out", out).exit_code == 0
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        save_commits(tmp_path, 4, lambda at: [with_numbers(Call(), peak_memory_bytes=at + 1)])

        def fail(*_: Any) -> str:
            raise OSError(28, "No space left on device", "history.html")

        monkeypatch.setattr("reports.history.history_page.history_page", fail)
        assert ask(tmp_path, "--out", out).exit_code == 2
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    def test_without_the_library_the_message_says_how_to_install_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("reports.history.step_search.find_spec", lambda _: None)
        done = ask(tmp_path)
        assert done.exit_code == 2
        assert "make history" in done.stderr


class TestOutput:
    def test_the_tables_have_a_row_for_each_step_and_for_each_number(self, tmp_path: Path) -> None:
        save_commits(tmp_path, 16, moved_at_eight)
        done = ask(tmp_path)
        assert done.exit_code == 0, done.output
        steps = pd.read_csv(tmp_path / "history" / "steps.csv")
        assert set(steps["metric"]) == {"time_ms_median", "saved_for_backward_bytes"}
        numbers = pd.read_csv(tmp_path / "history" / "history.csv")
        of_times = numbers[numbers["metric"] == "time_ms_median"]
        assert len(of_times) == 32
        assert (of_times["low"] < of_times["value"]).all()
        assert (of_times["value"] < of_times["high"]).all()
        assert set(of_times["variant"]) == {"sliding_window", "linear"}

    def test_the_terminal_shows_the_steps_up_to_a_number_of_rows(self, tmp_path: Path) -> None:
        save_commits(tmp_path, 16, moved_at_eight)
        text = ask(tmp_path, "--rows", "1").output
        assert "sliding_window" in text
        assert "1 more steps are in steps.csv" in text
        assert "saved for backward" not in text

    def test_series_that_are_too_short_for_the_search_are_counted(self, tmp_path: Path) -> None:
        """Two methods have 7 commits and a dirty run, and a third one has 8 commits."""

        def calls(at: int) -> list[Call]:
            short = [Call(), Call(variant="linear")] if at < FEWEST - 1 else []
            return [*short, Call(variant="lsh")]

        save_commits(tmp_path, FEWEST, calls)
        save(tmp_path, stored([Call()], FEWEST - 1, later=3, dirty=True), 90)
        counted = f"Steps of times and speedups need {FEWEST} commits: 2 of 6 series have them."
        page = tmp_path / "history" / "history.html"
        assert f"No step was found. {counted}" in ask(tmp_path).output
        text = page.read_text(encoding="utf-8")
        assert text.count(f"No step was found. {counted}") == 1
        more_memory = with_numbers(Call(variant="lsh"), peak_memory_bytes=7)
        save(tmp_path, stored([more_memory], FEWEST), 91)
        output = ask(tmp_path).output
        assert output.index(counted) < output.index("Moved last")
        assert "No step was found" not in output
        text = page.read_text(encoding="utf-8")
        assert text.index('<h2 id="moved">') < text.index(counted) < text.index("<th>case</th>")

    def test_a_search_of_all_series_without_a_step_says_so(self, tmp_path: Path) -> None:
        save_commits(tmp_path, FEWEST, lambda _: [Call()])
        output = ask(tmp_path).output
        assert "No step was found.\n" in output
        assert "need" not in output

    def test_the_page_states_the_condition_of_the_rate_of_steps_by_chance(
        self, tmp_path: Path
    ) -> None:
        save_commits(tmp_path, 16, moved_at_eight)
        ask(tmp_path)
        text = (tmp_path / "history" / "history.html").read_text(encoding="utf-8")
        words = " ".join(re.sub("<[^>]*>", "", text).split())
        assert (
            "If the noise of the runs is independent, at most about 1.0 % of their series show a "
            "step by chance, which is 0.0 of the 4 that were searched; if it is not, up to 9.4 % "
            "of simulated series do, which is 0.4." in words
        )

    def test_names_in_files_are_no_markup(self, tmp_path: Path) -> None:
        hostile = '<script>hurt=1</script>"][bold]'
        save_commits(
            tmp_path,
            2,
            lambda at: [with_numbers(Call(variant=hostile), peak_memory_bytes=at + 1)],
        )
        done = ask(tmp_path)
        assert "[bold]" in "".join(done.output.split())
        page = (tmp_path / "history" / "history.html").read_text(encoding="utf-8")
        assert "<script>hurt" not in page
        assert "&lt;script&gt;hurt" in page


# The fixture `benchmark` writes the file, so the shape is that of the installed plugin.
CONFTEST = """
import json

def pytest_benchmark_update_machine_info(machine_info):
    machine_info.clear()
    machine_info.update(json.loads({machine!r}))
"""
MODULE = """
import json

def test_time_of_a_call(benchmark):
    benchmark.group = "forward n=4096"
    benchmark.pedantic(sum, args=([1, 2],), rounds=7)
    benchmark.extra_info.update(json.loads({extra!r}))
"""


def test_a_file_of_the_installed_plugin_is_read(tmp_path: Path) -> None:
    extra = json.dumps(benchmark(Call())["extra_info"])
    machine = json.dumps(dict(MACHINE))
    (tmp_path / "conftest.py").write_text(CONFTEST.format(machine=machine), encoding="utf-8")
    (tmp_path / "test_one.py").write_text(MODULE.format(extra=extra), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_one.py"]
    options = ["--benchmark-autosave", "--benchmark-save-data", "--benchmark-storage=stored"]
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        # pytest-benchmark measures nothing in a worker of xdist.
        env={name: text for name, text in os.environ.items() if "XDIST" not in name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "stored").rglob("*.json")
    run = read_tracked(path)
    assert len(run.content.benchmarks[0].stats.data) == 7
    assert run.commit_time == run.run_time  # outside a repository
    assert {series.metric.name for series in histories([run])[0].series} >= {"time_ms_median"}
