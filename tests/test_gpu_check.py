"""`make gpu-check`: its parts, with tiny inputs on a CPU, and how it treats parts that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import variants
from bench.gpu_check import check_command, machine
from bench.gpu_check.check_command import gpu_check
from bench.gpu_check.parts import GRACE, CheckPart, run
from bench.sweep import read
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
        "import subprocess, sys, time\n"
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
    hidden = "import sys\nfor name in ('pebble', 'pandas', 'seaborn', 'xformers', 'fla'):\n"
    code = hidden + "    sys.modules[name] = None\n"
    code += "from bench.gpu_check import machine, slow_calls, small_sweep, variant_times\n"
    code += "from bench.gpu_check.check_command import gpu_check\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_parts_fit_nine_minutes_and_eight_files(tmp_path: Path) -> None:
    parts = check_command.parts("cuda", tmp_path, tmp_path)
    assert sum(part.seconds for part in parts) <= check_command.SECONDS + GRACE / 2
    assert check_command.SECONDS + GRACE <= 540
    names = [f"{part.name}.txt" for part in parts]
    files = {*names, "sweep.csv", "variants.csv", check_command.SIMULATED}
    assert len(files) <= 8
    files_of_tests = [word for word in parts[1].arguments if word.startswith("tests/")]
    assert "tests/test_cuda_implementations.py" in files_of_tests
    assert "tests/contract/test_rounding.py" in files_of_tests


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_sweep_is_valid(device: str) -> None:
    cases = read("gpu_check").cases(device, {})
    assert 30 < len(cases) < 80
    assert set(variants.REGISTRY) == {case.variant for case in cases}


def test_the_machine_is_described() -> None:
    done = CliRunner().invoke(machine.main, ["--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "sliding_window blocks: runs" in done.output
