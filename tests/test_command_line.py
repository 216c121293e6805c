"""The command line: its output, and one line with exit status 2 for bad input."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

import variants
from bench.cli import capture_command, executor_options, run_command
from bench.cli import commands as command
from bench.inputs import CaptureError
from bench.instruments import roofline
from bench.launches import sweep_time
from bench.loop import journal
from bench.loop.journal import FILE
from bench.plan.sweep import read
from bench.schema.case import Case
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.attention import measure_case
from bench.workloads.sweep_workload import SweepWorkload
from tests import cases
from tests.cases import capture_file, good
from tests.in_process import InProcess

ROOT = Path(__file__).parent.parent
ONE = "variant=sliding_window window_size=8"


@dataclass(frozen=True)
class Said:
    """The exit status of a command and its output."""

    status: int
    out: str
    err: str


Bench = Callable[..., Said]


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """Runs a command of `python -m bench` in an empty folder, without real measurements."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(executor_options, "LocalExecutor", lambda *_, **__: InProcess())
    monkeypatch.setattr(measure_case, "measure", cases.instant)
    monkeypatch.setattr(roofline, "measure_device", cases.limits)
    monkeypatch.setattr(measure_case, "measure_exact", cases.no_exact)
    # The command sets a handler for SIGTERM; the process of the tests must keep its own.
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.main()
        status = ended.value.code
        assert isinstance(status, int)
        return Said(status, *capsys.readouterr())

    return call


def refused(said: Said, message: str, status: int = 2) -> None:
    """The exit status, nothing on standard output, and one line with the reason."""
    assert said.status == status
    assert said.out == ""
    lines = said.err.splitlines()
    # For an invalid option or argument click prints the usage first.
    if lines[0].startswith("Usage: "):
        assert lines[1].startswith("Try '")
        lines = [line for line in lines[2:] if line]
    (line,) = lines
    assert line.startswith("Error: ")
    assert re.search(message, line), line


class TestBadInput:
    @pytest.mark.parametrize("verb", ["run", "plan"])
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["nosuch"],
                "no sweep 'nosuch'; give a .toml file, or one of: answers, cpu, field, gpu, "
                "gpu_check, layer, long, peers, smoke",
            ),
            (["nosuch.toml"], r"cannot read nosuch\.toml: No such file or directory"),
            (["--set", "heads"], "write an override as axis=value,value; got 'heads'"),
            (
                ["--set", "speed=1"],
                r"unknown axis 'speed' \(did you mean 'seed'\?\); the axes are: ",
            ),
            (["--set", "heads=0"], "heads must be a whole number of at least 1; got 0"),
            (["--set", "dtype=int8"], "dtype must be one of float32, .*; got 'int8'"),
            (["--set", "causal=maybe"], "causal must be true, false or if_possible; got 'maybe'"),
            (
                ["--set", "variant=fulll"],
                r"'fulll' \(did you mean 'full'\?\); known variants: .*full, ",
            ),
            (["--set", "dtype=bfloat"], r"got 'bfloat' \(did you mean 'bfloat16'\?\)"),
            (["--set", "inputs=smolm2"], r"'smolm2' \(did you mean 'smollm2'\?\); known: "),
            (["smok"], r"no sweep 'smok' \(did you mean 'smoke'\?\); give"),
            (
                ["--set", "variant=lsh", "--set", "num_hashes=4"],
                r"num_hashes is a hyperparameter of lsh, not an axis; .* "
                r'python -m bench run --set "variant=lsh num_hashes=4" \(SET= of make splits',
            ),
            (["--set", "variant="], "variant must be text; got ''"),
            (["--set", "variant=lsh x=1"], "lsh has no hyperparameter 'x'; it has: "),
            (["--set", "implementation=fast"], "implementation must be one of auto, "),
            (["--set", "heads=4", "--set", "kv_heads=3"], "kv_heads must divide heads"),
            (["--set", "inputs=noise"], "unknown inputs 'noise'; known: gaussian, clustered, "),
            (["--set", "inputs=sinks hot"], "inputs have the settings temperature=NUMBER .*'hot'"),
            (["--set", "inputs=sinks temperature=0"], "must be a number above 0; got '0'"),
            (
                ["--set", "inputs=smollm2 effective_keys=9 temperature=1"],
                "give one of temperature and effective_keys, once",
            ),
            (["--set", "inputs=file:none"], "none: expected a .safetensors file made by capture"),
            (["--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
            (["cpu", "gpu"], r"unexpected extra argument"),
            (["--sett", "heads=1"], "No such option.*--sett"),
        ],
    )
    def test_bad_input_of_a_sweep(
        self, bench: Bench, verb: str, words: list[str], message: str
    ) -> None:
        refused(bench(verb, *words), message)
        assert not list(Path().iterdir())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("seq_len = [", r"mine\.toml is not valid TOML: "),
            ("[group]\nheads = [1]", r"mine: groups must be written as \[\[group\]\] tables"),
            ("heads = [1]", "a sweep needs the axis seq_len"),
            ("seqlen = [1]", "mine: unknown axis 'seqlen' .*; the axes are: batch, "),
        ],
    )
    def test_bad_input_in_a_sweep_file(self, bench: Bench, content: str, message: str) -> None:
        Path("mine.toml").write_text(content)
        refused(bench("run", "mine.toml"), message)
        assert [file.name for file in Path().iterdir()] == ["mine.toml"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--out", "a", "--resume", "b"], "give --out for a new run or --resume for an old"),
            (["--resume", "nosuch"], r"nosuch holds no run that could be resumed"),
            (["--device", "cuda"], "torch finds no CUDA device here; valid: auto, cpu"),
            (["--seconds", "0"], "'--seconds': 0.0 is not in the range"),
            (["--timeout", "0.5"], "'--timeout': 0.5 is not in the range"),
        ],
    )
    def test_bad_input_of_a_run(self, bench: Bench, words: list[str], message: str) -> None:
        refused(bench("run", *words), message)
        assert not list(Path().iterdir())

    @pytest.mark.parametrize("content", [b"{}\n", b"no json\n", b"\xff\n", b"[]\n"])
    def test_a_damaged_run_folder(self, bench: Bench, content: bytes) -> None:
        Path("run").mkdir()
        Path("run", FILE).write_bytes(content)
        refused(bench("run", "--resume", "run"), r"journal\.jsonl: line 1")
        assert Path("run", FILE).read_bytes() == content

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["capture", "--model", "m", "--out", "o"], "Missing option '--text'"),
            (
                ["capture", "--model", "m", "--out", "o", "--text", "t", "--layers", "1,x"],
                "--layers takes numbers as 3,15,28; got '1,x'",
            ),
            (["nosuch"], "No such command 'nosuch'"),
        ],
    )
    def test_bad_input_of_other_commands(
        self, bench: Bench, words: list[str], message: str
    ) -> None:
        refused(bench(*words), message)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["a", "b"], r"cannot read a.results\.csv: No such file or directory"),
            (["a"], "expected two folders of runs, or --base REVISION and no folder; got 1"),
            (["a", "b", "--base", "HEAD"], "--base compares revisions; got also the folder a"),
            (["a", "b", "--head", "HEAD"], "got 2 folders and --head"),
            (["--nosuch"], "No such option '--nosuch'"),
        ],
    )
    def test_bad_input_of_a_comparison(self, bench: Bench, words: list[str], message: str) -> None:
        refused(bench("compare", *words), message, status=3)

    def test_bad_input_of_the_real_command_gives_one_line_and_status_2(
        self, tmp_path: Path
    ) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "plan", "nosuch"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        refused(Said(done.returncode, done.stdout, done.stderr), "no sweep 'nosuch'; give a .toml")


class TestList:
    def test_list_names_every_variant_and_implementation(self, bench: Bench) -> None:
        said = bench("list")
        assert said.status == 0
        head, *lines = [re.split("  +", line.strip()) for line in said.out.splitlines()]
        assert head == ["variant", "implementation", "cpu", "settings", "support"]
        offered = [(row[0], row[1]) for row in lines if len(row) == 5 and row[2] in ("yes", "no")]
        assert offered == [
            (name, implementation)
            for name, cls in sorted(variants.REGISTRY.items())
            for implementation in cls.info.implementations
        ]

    def test_list_has_boxes_on_a_terminal_only(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        boxes = re.compile("[│┃┏└━─]")
        for words in (["list"], ["list", "lsh"]):
            assert not boxes.search(bench(*words).out)
        monkeypatch.setattr(Console, "is_terminal", True)
        for words in (["list"], ["list", "lsh"]):
            assert boxes.search(bench(*words).out)

    def test_list_gives_the_reason_why_an_implementation_cannot_run(self, bench: Bench) -> None:
        said = bench("list")
        assert (
            "full/xformers, sliding_window/xformers: xFormers has no operators for a CPU"
            in said.out
        )
        assert re.search(r"full +xformers +no +none", said.out)
        assert re.search(r"full +sdpa +yes +none", said.out)

    def test_list_shows_the_settings_and_the_supported_capabilities(self, bench: Bench) -> None:
        said = bench("list")
        assert "bucket_size=64 num_hashes=1 seed=0 shared_qk=False" in said.out
        assert "backward, causal, cross_attention, key_padding_mask" in said.out

    def test_list_shows_which_variants_are_causal_only_or_never_causal(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = variants.REGISTRY["linear"]
        for name, changes in (
            ("only", {"causal_only": True}),
            ("never", {"supports": frozenset({"backward"})}),
        ):
            info = replace(whole.info, name=name, **changes)
            monkeypatch.setitem(variants.REGISTRY, name, type(name, (whole,), {"info": info}))
        text = bench("list").out
        assert "backward, causal only, cross_attention" in text
        assert "backward, never causal" in text


class TestListOfOneVariant:
    @pytest.mark.parametrize("name", sorted(variants.REGISTRY))
    def test_list_of_a_variant_shows_all_declared_facts(self, bench: Bench, name: str) -> None:
        said = bench("list", name)
        info = variants.REGISTRY[name].info
        assert said.status == 0
        assert said.out.startswith(f"{name}: {info.summary}")
        rows = [re.split("   *", line.strip()) for line in said.out.splitlines()]
        assert ["paper", f"{info.title}, {info.year}, {info.url}"] in rows
        assert ["time", info.time] in rows
        assert ["memory", info.memory] in rows
        assert ["target", info.target] in rows
        for known in variants.hyperparameters(name):
            valid = known.valid or f"any {known.type.__name__}"
            assert [known.name, known.type.__name__, str(known.default), valid, known.doc] in rows
        for implementation in info.implementations:
            reason = variants.create(name).unavailable(implementation, torch.device("cpu"))
            assert [implementation, f"no: {reason}" if reason else "yes"] in rows

    def test_list_of_a_variant_shows_when_it_is_exact(self, bench: Bench) -> None:
        for name, text in (("full", "always"), ("linear", "never"), ("compressed", "block_size=1")):
            assert re.search(rf"exact when +{text} *\n", bench("list", name).out)
        assert "no hyperparameters" in bench("list", "full").out

    def test_list_of_an_unknown_variant_names_the_known_ones(self, bench: Bench) -> None:
        refused(
            bench("list", "lhs"), r"'lhs' \(did you mean 'lsh'\?\); known variants: adaptive_span, "
        )


class TestPlan:
    def test_plan_counts_the_cases_by_variant_and_length(self, bench: Bench) -> None:
        said = bench("plan", "smoke")
        planned = read("smoke").cases("cpu", {})
        assert said.status == 0
        assert f"smoke on cpu: {len(planned)} cases" in said.out
        lines = [re.findall(r"[^\s│┃]+", line) for line in said.out.splitlines()]
        assert ["variant", "lengths", "cases", "time", "memory"] in lines
        assert ["length", "variants", "cases", "time", "memory"] in lines
        assert re.search(r"smoke on cpu: \d+ cases, about [\d.]+ (s|min)", said.out)
        assert "inputs smollm2 layer 15; dtype float32, bfloat16; direction forward, " in said.out
        for name in variants.REGISTRY:
            count = sum(case.variant == name for case in planned)
            assert [name, "256", "to", "512", "(2)", str(count)] in [line[:6] for line in lines]
        for length in (256, 512):
            count = sum(case.seq_len == length for case in planned)
            assert [str(length), str(len(variants.REGISTRY)), str(count)] in [
                line[:3] for line in lines
            ]
        assert ["all", str(len(variants.REGISTRY)), str(len(planned))] in [
            line[:3] for line in lines
        ]

    def test_plan_uses_the_sweep_of_the_device_by_default(self, bench: Bench) -> None:
        assert "cpu on cpu: " in bench("plan").out

    def test_plan_of_axes_only_needs_no_sweep(self, bench: Bench) -> None:
        said = bench("plan", "--set", "seq_len=16,32", "--set", ONE)
        assert "axes on cpu: 2 cases" in said.out

    def test_plan_overrides_the_sweep_of_the_device_if_no_length_is_given(
        self, bench: Bench
    ) -> None:
        said = bench("plan", "--set", ONE)
        assert said.out.lstrip().startswith("cpu on cpu: ")
        assert "bigbird" not in said.out

    def test_plan_for_a_gpu_says_how_long_the_sweep_takes_without_one(self, bench: Bench) -> None:
        words = "--device", "cuda", "--set", "seq_len=1024", "--set", "variant=full,linformer"
        said = bench("plan", *words)
        assert said.status == 0
        assert "axes on cuda: " in said.out
        assert re.search(r"axes takes about \d+\.\d minutes on an H100", " ".join(said.out.split()))
        for column in ("group", "cases", "refused", "calls", "compiling", "exact", "other", "all"):
            assert column in said.out

    def test_the_gpu_sweep_is_planned_for_a_gpu(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep_time, "table", lambda sweep, files: ("a table", "a sentence"))
        assert "gpu on cuda: " in bench("plan", "gpu").out

    def test_plan_measures_nothing(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(run_command, "run_loop")
        assert bench("plan", "smoke").status == 0
        assert not list(Path().iterdir())


class TestRun:
    AXES = ("--set", "seq_len=16,32", "--set", ONE)

    def test_run_prints_its_folder_on_standard_output(self, bench: Bench) -> None:
        said = bench("run", *self.AXES, "--out", "mine")
        assert (said.status, said.out) == (0, "mine\n")
        assert sorted(file.name for file in Path("mine").iterdir()) == [
            "environment.json",
            "heads.csv",
            "journal.jsonl",
            "results.csv",
        ]
        assert "2 of 2 cases" in said.err
        *_, ended, compared = said.err.splitlines()
        assert ended.endswith(": 2 ok")
        assert re.fullmatch(r"predicted .+, took .+: [\d.]+ times", compared)

    def test_run_creates_a_folder_named_by_time_and_device(self, bench: Bench) -> None:
        said = bench("run", *self.AXES)
        assert re.fullmatch(r"results/\d{8}-\d{6}-cpu\n", said.out)
        assert Path(said.out.strip(), "results.csv").exists()

    def test_run_passes_on_seconds_and_timeout(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[SweepWorkload] = []
        monkeypatch.setattr(run_command, "run_loop", lambda workload, *_: seen.append(workload))
        bench("run", *self.AXES, "--seconds", "0.5", "--timeout", "7")
        assert (seen[0].seconds, seen[0].timeout) == (0.5, 7.0)

    def test_run_uses_the_timeout_of_the_sweep_also_when_it_is_resumed(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("mine.toml").write_text(
            'timeout = 33\nseq_len = 16\nvariant = ["sliding_window window_size=8"]'
        )
        bench("run", "mine.toml", "--out", "mine")
        stored = json.loads(Path("mine", "environment.json").read_text())
        assert stored["sweep"]["timeout"] == 33
        seen: list[float] = []
        monkeypatch.setattr(
            run_command, "run_loop", lambda workload, *_: seen.append(workload.timeout)
        )
        bench("run", "mine.toml", "--out", "other")
        bench("run", "--resume", "mine")
        bench("run", *self.AXES)
        assert seen == [33, 33, 180]

    def test_run_with_failed_cases_succeeds_and_counts_them(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measure(asked: Case, *_: object) -> tuple[Measurement, Raw]:
            failed = Measurement.of(asked, Status.ERROR, "bad")
            return (failed if asked.seq_len == 32 else good(asked)), Raw()

        monkeypatch.setattr(measure_case, "measure", measure)
        said = bench("run", *self.AXES, "--out", "mine")
        assert said.status == 0
        assert said.err.splitlines()[-2].endswith(": 1 ok, 1 error")
        assert "nothing could be measured" not in said.err

    def test_a_run_without_numbers_says_why_and_exits_with_1(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measure(asked: Case, *_: object) -> tuple[Measurement, Raw]:
            reason = "too long" if asked.seq_len > 16 else f"no {asked.heads} heads"
            return Measurement.of(asked, Status.UNSUPPORTED, reason), Raw()

        monkeypatch.setattr(measure_case, "measure", measure)
        heads = ("--set", "heads=1,2,3,4,5")
        said = bench("run", *self.AXES, *heads, "--out", "mine")
        assert (said.status, said.out) == (1, "mine\n")
        expected = [
            "nothing could be measured:",
            "  5 unsupported: too long",
            *(f"  1 unsupported: no {n} heads" for n in (1, 2, 3, 4)),
            "  and 1 other reason; the column `reason` of results.csv has all",
        ]
        assert said.err.splitlines()[-len(expected) :] == expected
        assert bench("run", "--resume", "mine").status == 1

    def test_a_run_begins_with_its_number_of_cases_and_its_expected_time(
        self, bench: Bench
    ) -> None:
        first = bench("run", *self.AXES, "--out", "mine").err.splitlines()[0]
        assert re.match(r"2 cases, about [\d.]+ (s|min) \(", first)

    def test_axes_alone_have_real_inputs_and_are_causal(self, bench: Bench) -> None:
        words = (
            "--set",
            "seq_len=1k,8k,64k",
            "--set",
            "dtype=bf16",
            "--set",
            "variant=full,nystrom",
        )
        said = bench("run", *words, "--out", "mine")
        assert said.status == 0
        rows = pd.read_csv("mine/results.csv")
        assert set(rows["dtype"]) == {"bfloat16"}
        assert set(rows["seq_len"]) == {1024, 8192, 65536}
        assert set(rows[rows["variant"] == "full"]["causal"]) == {True}
        assert set(rows[rows["variant"] == "nystrom"]["causal"]) == {False}
        assert set(rows[rows["seq_len"] == 1024]["inputs"]) == {"smollm2"}
        assert set(rows[rows["seq_len"] == 65536]["inputs"]) == {"sinks effective_keys=32"}
        assert re.search(r"inputs sinks effective_keys=32, because smollm2 holds \d+ t", said.err)
        assert "because" not in bench("run", *words, "--set", "inputs=gaussian").err

    def test_run_refuses_a_folder_that_contains_a_run(self, bench: Bench) -> None:
        bench("run", *self.AXES, "--out", "mine")
        refused(
            bench("run", *self.AXES, "--out", "mine"),
            "mine holds a run already; continue it with --resume mine",
        )

    def test_run_on_a_full_disk_ends_with_one_message(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, count = os.fsync, iter(range(100))

        def full(number: int) -> None:
            if next(count) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(number)

        monkeypatch.setattr(os, "fsync", full)
        said = bench("run", *self.AXES, "--out", "mine")
        assert said.status == 2
        assert said.out == ""
        assert [line for line in said.err.splitlines() if "rror" in line] == [
            "Error: cannot write to mine: No space left on device; measured rows are kept, "
            "continue with --resume mine"
        ]
        assert len(journal.read(Path("mine"), SweepWorkload).results) == 1

    def test_an_interrupted_run_prints_how_to_resume(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(measure_case, "measure", interrupted)
        said = bench("run", *self.AXES, "--out", "mine")
        assert said.status == 130
        assert said.err.endswith("stopped; continue with: python -m bench run --resume mine\n")
        monkeypatch.setattr(measure_case, "measure", cases.instant)
        assert bench("run", "--resume", "mine").status == 0

    def test_a_run_interrupted_before_its_start_can_be_started_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(roofline, "measure_device", interrupted)
        said = bench("run", *self.AXES, "--out", "mine")
        assert said.status == 130
        assert said.err.endswith("stopped; nothing measured\n")
        monkeypatch.setattr(roofline, "measure_device", cases.limits)
        assert bench("run", *self.AXES, "--out", "mine").status == 0


class TestResume:
    AXES = TestRun.AXES

    @pytest.fixture
    def begun(self, bench: Bench) -> str:
        """A run of two cases. Only the first case is measured."""
        bench("run", *self.AXES, "--out", "mine")
        file = Path("mine", FILE)
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
        return "mine"

    def test_resume_needs_only_the_folder(self, bench: Bench, begun: str) -> None:
        said = bench("run", "--resume", begun)
        assert (said.status, said.out) == (0, "mine\n")
        assert len(Path(begun, "results.csv").read_text().splitlines()) == 3
        assert bench("run", "--resume", begun, "--device", "cpu").status == 0

    def test_resume_accepts_the_same_sweep_in_another_spelling(
        self, bench: Bench, begun: str
    ) -> None:
        assert bench("run", *self.AXES, "--resume", begun).status == 0

    @pytest.mark.parametrize(
        "words", [["smoke"], ["--set", "seq_len=16"], ["--set", "seq_len=16,32"]]
    )
    def test_resume_refuses_another_sweep(self, bench: Bench, begun: str, words: list[str]) -> None:
        before = Path(begun, FILE).read_bytes()
        refused(
            bench("run", *words, "--resume", begun),
            r"mine was started with another sweep \(axes\); resume it without SWEEP and --set",
        )
        assert Path(begun, FILE).read_bytes() == before

    def test_resume_refuses_another_shard(self, bench: Bench, begun: str) -> None:
        axes = ("--set", "seq_len=16", "--set", "heads=2")
        assert bench("run", *axes, "--shard", "1/2", "--out", "part").status == 0
        assert bench("run", *axes, "--shard", "1/2", "--resume", "part").status == 0
        refused(
            bench("run", "--shard", "1/3", "--resume", "part"),
            "part measures shard 1/2, not shard 1/3",
        )
        refused(
            bench("run", "--shard", "1/2", "--resume", begun),
            "mine measures all shards, not shard 1/2",
        )

    def test_resume_refuses_another_machine(self, bench: Bench, begun: str) -> None:
        file = Path(begun, FILE)
        header, *rest = file.read_text().splitlines()
        edited = json.loads(header)
        edited["environment"]["hardware"]["cores"] = 1000
        file.write_text("\n".join([json.dumps(edited), *rest, ""]))
        said = bench("run", "--resume", begun)
        assert said.status == 2
        (message,) = [line for line in said.err.splitlines() if line.startswith("Error: ")]
        assert "mine was measured on another machine or installation: cores was 1000 and" in message
        assert "Traceback" not in said.err

    def test_resume_refuses_another_device(
        self, bench: Bench, begun: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        refused(bench("run", "--resume", begun, "--device", "cuda"), "was measured on cpu, not on")

    def test_resume_finds_captures_at_their_old_path(self, bench: Bench) -> None:
        Path("captures").mkdir()
        capture_file(Path("captures", "some.safetensors"))
        axes = ("--set", "inputs=file:captures/some.safetensors", "--set", "head_dim=8")
        assert bench("run", *self.AXES, *axes, "--out", "other").status == 0
        assert bench("run", "--resume", "other").status == 0
        Path("captures", "some.safetensors").unlink()
        refused(bench("run", "--resume", "other"), r"some\.safetensors: expected .* no such file")


class TestCompare:
    def test_compare_shows_the_ratio_of_two_runs(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder, milliseconds in (("before", 2.0), ("after", 3.0)):
            monkeypatch.setattr(
                measure_case,
                "measure",
                lambda asked, *_, ms=milliseconds: (good(asked, time_ms_median=ms), Raw()),
            )
            bench("run", *TestRun.AXES, "--out", folder)
        said = bench("compare", "before", "after")
        assert said.status == 0
        assert "2 cases in both runs; ratio below 1 is faster" in said.out
        for length in (16, 32):
            assert re.search(rf"n={length} +│ +2\.000 │ +3\.000 │ +1\.500 │", said.out)

    def test_compare_refuses_a_table_without_the_columns_of_a_run(self, bench: Bench) -> None:
        for folder, content in (
            ("a", "x,y\n1,2\n"),
            ("b", ",".join(tuple(Measurement.columns())) + "\n"),
        ):
            Path(folder).mkdir()
            Path(folder, "results.csv").write_text(content)
        refused(
            bench("compare", "a", "b"), r"a.results\.csv lacks .* columns: .*approx_cosine, ", 3
        )
        refused(bench("compare", "b", "b"), r"cannot read b.environment\.json: No such file", 3)


class TestCapture:
    def test_capture_passes_on_its_options_and_names_the_file(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}

        def capture(*arguments: object, **options: object) -> object:
            seen.update(options, arguments=arguments)
            return SimpleNamespace(layers=(3, 15), tokens=64, heads=4, kv_heads=2)

        monkeypatch.setattr(capture_command, "make_capture", capture)
        said = bench(
            "capture", "--model", "m", "--text", "t.txt", "--layers", "3,15", "--kv-groups", "0",
            "--out", "o.safetensors", "--tokens", "64", "--text-license", "free",
        )  # fmt: skip
        assert seen.pop("arguments") == ("m", Path("t.txt"), [3, 15], Path("o.safetensors"))
        assert seen == {
            "tokens": 64,
            "kv_groups": [0],
            "text_title": None,
            "text_license": "free",
            "model_license": None,
        }
        assert said.status == 0
        assert said.out == (
            "o.safetensors: layers 3, 15, 64 tokens, 4 query and 2 key/value heads; use it with "
            "--set inputs=file:o.safetensors\n"
        )

    def test_a_capture_that_fails_ends_with_one_line(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise CaptureError("m: no such model")

        monkeypatch.setattr(capture_command, "make_capture", fail)
        refused(bench("capture", "--model", "m", "--text", "t", "--out", "o"), "m: no such model")


@pytest.mark.parametrize("module", ["bench.cli", "torch"])
def test_an_interrupt_during_the_imports_ends_without_a_traceback(module: str) -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv = ['bench', 'list']\n"
        "from bench.__main__ import start\n"
        "start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
