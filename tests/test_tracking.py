"""The stored benchmarks: their content, and the data that must be absent."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of one stored run of one benchmark."""
    folder = tmp_path_factory.mktemp("track")
    command = [sys.executable, "-m", "pytest", "tests/tracking", "-q", "-p", "no:cacheprovider"]
    command += ["-k", "linear-forward-1024", f"--benchmark-storage=file://{folder}"]
    # pytest-benchmark measures nothing in a worker of xdist.
    own = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(
        [*command, "--benchmark-save=one"], cwd=ROOT, env=own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.rglob("*_one.json")
    return path.read_text()


def test_exact_memory_and_operations_are_stored_with_the_times(stored: str) -> None:
    (benchmark,) = json.loads(stored)["benchmarks"]
    assert benchmark["stats"]["rounds"] == 7
    # Output, and the features of query and key, each 1 × 4 × 1024 × 64 of float32.
    assert benchmark["extra_info"]["peak_memory_bytes"] >= 3 * 4 * 1024 * 64 * 4
    assert 0.1 < benchmark["extra_info"]["approx_error_rel_l2"] < 10


def test_the_machine_is_described_without_its_name(stored: str) -> None:
    machine = json.loads(stored)["machine_info"]
    assert machine["processor"]
    assert machine["threads"] >= 1
    for name in (platform.node(), str(ROOT), str(Path.home())):
        assert name not in stored
    assert f'"{getpass.getuser()}"' not in stored


def test_a_comparison_without_stored_runs_prints_the_next_step(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
    command += [str(ROOT / "tests/tracking"), "--benchmark-compare", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "holds no stored run; `make track` makes one" in done.stderr
