"""`make gpu-check`: its parts, with tiny inputs on a CPU, and how it treats parts that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.cli import gpu_check_command as check_command
from bench.cli.gpu_check_command import gpu_check
from bench.gpu_check import beside, gpu_tests, machine, small_sweep
from bench.gpu_check.beside import Beside
from bench.gpu_check.parts import GRACE, CheckPart, run
from bench.launches import sweep_time
from bench.launches.sweep_time import GroupTime
from bench.plan.sweep import read
from tests import conftest
from tests.versions import ROOT


def ran(tmp_path: Path, code: str, seconds: float = 60.0) -> tuple[str, str]:
    """How a part with this program ended, and its output."""
    (tmp_path / "program.py").write_text(code)
    there = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = run(CheckPart("part", 1, ("program",)), tmp_path, seconds, there)
    return ended, (tmp_path / "part.txt").read_text()


def test_the_output_of_a_part_that_fails_is_kept(tmp_path: Path) -> None:
    ended, text = ran(tmp_path, "print('before', flush=True)\nraise LookupError('there is none')")
    assert ended.startswith("exit 1")
    assert text.startswith("before")
    assert "there is none" in text


def test_a_part_that_takes_too_long_is_stopped_with_its_processes(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        # A test run in the background of a shell ignores the interrupt, and so would its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    started = time.monotonic()
    ended, text = ran(tmp_path, code, seconds=2.0)
    assert ended.startswith("stopped")
    assert time.monotonic() - started < 2.0 + GRACE
    state = Path(f"/proc/{text.split()[0]}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_crash_of_one_part_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        check_command,
        "parts",
        lambda *_: [
            CheckPart("first", 20, ("no_such_module",)),
            CheckPart("second", 20, ("this",)),
        ],
    )
    done = CliRunner().invoke(gpu_check, ["--device", "cpu", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "--- first: exit 1" in done.output
    assert "Beautiful is better than ugly." in done.output
    assert (tmp_path / "out" / "second.txt").is_file()


def test_the_command_starts_without_packages_that_a_machine_may_lack() -> None:
    """The command installs wheels, such as msgspec and psutil, before its parts start."""
    parts = "from bench.gpu_check import machine, slow_calls, small_sweep, variant_times"
    command = "from bench.cli.gpu_check_command import gpu_check"
    for code, names in ((parts, ()), (command, ("msgspec", "psutil"))):
        lacking = ("pandas", "matplotlib", "xformers", "fla", *names)
        hidden = f"import sys\nfor name in {lacking}:\n    sys.modules[name] = None\n"
        subprocess.run([sys.executable, "-c", hidden + code], cwd=ROOT, check=True)


def test_the_parts_fit_nine_minutes_and_eight_files(tmp_path: Path) -> None:
    parts = check_command.parts("cuda", tmp_path, tmp_path)
    assert sum(part.seconds for part in parts) <= check_command.SECONDS + GRACE / 2
    assert check_command.SECONDS + GRACE <= 540
    files = {*(part.file for part in parts), "sweep.csv", "variants.csv", check_command.SIMULATED}
    assert len(files) <= 8


def test_the_tests_are_in_the_order_of_their_value() -> None:
    files = gpu_tests.files()
    assert [Path(file).stem for file in files[: len(gpu_tests.FIRST)]] == list(gpu_tests.FIRST)
    assert files[-1] == "tests/test_flex.py"
    many, serial = (gpu_tests.arguments("cuda", serial=serial) for serial in (False, True))
    assert "gpu and not serial" in many
    assert "-n" in many
    assert "gpu and serial" in serial
    assert "-n" not in serial


def test_tests_of_time_run_alone() -> None:
    kinds = [(part.name, part.alone) for part in check_command.parts("cuda", Path(), Path())]
    assert kinds[:4] == [
        ("environment", False),
        ("tests", False),
        ("tests", True),
        ("sweep", True),
    ]


def test_the_timing_of_variants_has_all_time_that_others_leave() -> None:
    parts = check_command.parts("cuda", Path(), Path())
    (variants_part,) = [part for part in parts if part.name == "variants"]
    last = parts[-1:]
    assert last[0].name == "profiles"
    assert check_command.seconds_of(variants_part, [], 500.0) == 500.0
    assert check_command.seconds_of(variants_part, last, 500.0) == 460.0
    assert check_command.seconds_of(variants_part, last, 180.0) == 170.0
    assert check_command.seconds_of(variants_part, last, 30.0) == 30.0
    assert check_command.seconds_of(last[0], [], 300.0) == last[0].seconds


class TestBeside:
    """Processes that run beside the first parts."""

    def processes(self, tmp_path: Path, seconds: float) -> Beside:
        code = f"import time\nprint(flush=True)\ntime.sleep({seconds})\n"
        (tmp_path / "waits.py").write_text(code)
        return Beside([("waits",)], os.environ | {"PYTHONPATH": str(tmp_path)})

    def test_none_is_left_when_a_measurement_begins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(beside, "SECONDS", 0.3)
        prepare = self.processes(tmp_path, 600)
        prepare.start()
        (process,) = prepare._running
        started = time.monotonic()
        prepare.wait()
        assert 0.2 < time.monotonic() - started < 20
        assert process.poll() is not None

    def test_they_may_end_by_themselves_and_are_not_started_again(self, tmp_path: Path) -> None:
        prepare = self.processes(tmp_path, 0)
        prepare.start()
        (process,) = prepare._running
        prepare.wait()
        assert process.returncode == 0
        prepare.start()
        assert not prepare._running

    def test_a_part_that_measures_waits_for_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[str] = []
        for word in ("start", "wait", "stop"):
            monkeypatch.setattr(Beside, word, lambda self, word=word: steps.append(word))
        names = (("environment", False), ("tests", False), ("sweep", True))
        made = [CheckPart(name, 20, ("this",), alone) for name, alone in names]
        monkeypatch.setattr(check_command, "parts", lambda *_: made)

        def said(part: CheckPart, *_: object) -> str:
            steps.append(part.name)
            return "done"

        monkeypatch.setattr(check_command, "run", said)
        monkeypatch.setattr(check_command, "show", lambda *_: None)
        (tmp_path / "left.part").touch()
        done = CliRunner().invoke(gpu_check, ["--device", "cpu", "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert steps == ["environment", "start", "tests", "start", "wait", "sweep", "stop"]
        assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_output_and_leaves_no_process(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        "import os, time\nprint(os.getpid(), flush=True)\n"
        "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('saved', flush=True)\n"
    )
    (tmp_path / "command.py").write_text(
        "from bench.cli import gpu_check_command as check_command\n"
        "from bench.gpu_check.parts import CheckPart\n"
        "made = [CheckPart('one', 60, ('program',)), CheckPart('two', 60, ('this',))]\n"
        "check_command.parts = lambda *_: made\n"
        "check_command.gpu_check()\n"
    )
    places = os.pathsep.join([str(tmp_path), str(ROOT)])
    out = tmp_path / "out"
    command = subprocess.Popen(
        [sys.executable, "-m", "command", "--device", "cpu", "--out", str(out)],
        env=os.environ | {"PYTHONPATH": places},
        # As in a script, which starts a command in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    text, deadline = out / "one.txt", time.monotonic() + 60
    while not (text.exists() and text.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    command.send_signal(number)
    assert command.wait(30) != 0
    process, said = text.read_text().split()
    assert said == "saved"
    assert not Path(f"/proc/{process}").exists()
    assert not (out / "two.txt").exists()


class TestSmallSweep:
    def sweep(self, folder: Path, seconds: float) -> subprocess.Popen[bytes]:
        (folder / "results.csv").write_text("variant,status\nlinear,ok\n")
        return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])

    def test_rows_are_copied_while_it_runs_and_its_end_is_bounded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(small_sweep, "COPY_SECONDS", 0.05)
        monkeypatch.setattr(small_sweep, "LAST_SECONDS", 0.1)
        monkeypatch.setattr(small_sweep, "SHOWN", ("variant", "status"))
        copies: list[str] = []
        copy = small_sweep._copy

        def copied(out: Path, folder: Path) -> bool:
            if len(copies) == 2:
                copies.append("interrupt")
                raise KeyboardInterrupt
            done = copy(out, folder)
            copies.append((out / "sweep.csv").read_text())
            return done

        monkeypatch.setattr(small_sweep, "_copy", copied)
        run_folder, out = tmp_path / "run", tmp_path / "out"
        run_folder.mkdir()
        out.mkdir()
        process = self.sweep(run_folder, 600)
        small_sweep.follow(process, out, run_folder)
        assert process.wait(10) != 0
        assert copies[0] == "variant,status\nlinear,ok\n"
        assert [file.name for file in out.iterdir()] == ["sweep.csv"]
        assert "linear | ok" in capsys.readouterr().out


def test_a_machine_without_its_driver_command_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine._driver().startswith("no output of nvidia-smi")


def test_a_worker_of_tests_ends_with_its_broken_device(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    conftest.pytest_runtest_logfinish()
    assert not ended

    def broken() -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    conftest.pytest_runtest_logfinish()
    assert not ended
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    conftest.pytest_runtest_logfinish()
    assert ended == [1]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_sweep_is_valid(device: str) -> None:
    cases = read("gpu_check").cases(device, {})
    assert 15 < len(cases) < 40
    for axis, values in {
        "causal": {False, True},
        "dtype": {"bfloat16", "float32"},
        "direction": {"forward", "forward_backward"},
        "launch": {"eager", "graph"},
        "head_dim": {64, 128},
    }.items():
        assert {getattr(case, axis) for case in cases} == values


def test_the_sweep_fits_its_part() -> None:
    sweep, files = read("gpu_check").located()
    start = GroupTime(other=sweep_time.START_SECONDS)
    expected = sum(sweep_time.of_sweep(sweep, files), start).seconds
    (part,) = [one for one in check_command.parts("cuda", Path(), Path()) if one.name == "sweep"]
    assert expected <= 110 < part.seconds


def test_the_machine_is_described() -> None:
    done = CliRunner().invoke(machine.main, ["--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "sliding_window blocks: runs" in done.output
