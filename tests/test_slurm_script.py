"""The script for Slurm, with a `python` that writes down its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm_shards.sh"
HEADER, RESULT = '{"event": "run"}\n', '{"event": "result"}\n'
NEW, OLD = "--out", "--resume"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A folder for a task of an array, with the `python` in `bin/`."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\n" $$ "$@" >called\nexit "${STATUS:-0}"\n')
    python.chmod(0o755)
    return tmp_path


def started(folder: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    environment = {name: text for name, text in os.environ.items() if "SLURM" not in name}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    # An array with the shards 3 and 5 alone.
    slurm = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MAX": "5"}
    return subprocess.Popen(
        ["sh", SCRIPT, *words],
        cwd=folder,
        env={**environment, **slurm, **variables, "PATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )


def journal(folder: Path, text: str) -> None:
    file = folder / "shards" / "5" / "journal.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param(None, NEW, id="no folder"),
        pytest.param("", NEW, id="died before the first line"),
        pytest.param(HEADER[:5], NEW, id="died in the first line"),
        pytest.param(HEADER, OLD, id="died in the first case"),
        pytest.param(HEADER + RESULT + RESULT[:9], OLD, id="interrupted"),
        pytest.param(HEADER + RESULT, OLD, id="finished"),
    ],
)
def test_a_task_starts_or_continues_its_shard(task: Path, text: str | None, place: str) -> None:
    if text is not None:
        journal(task, text)
    script = started(task, "gpu", "8", "--seconds", "0.5", "--set", "variant=full,lsh num_hashes=2")
    _, error = script.communicate()
    pid, *words = (task / "called").read_text().splitlines()
    assert words == [
        *("-m", "bench", "run", "gpu", "--shard", "5/8"),
        *("--seconds", "0.5", "--set", "variant=full,lsh num_hashes=2"),
        *(place, "shards/5"),
    ]
    assert (script.returncode, error) == (0, "")
    assert int(pid) == script.pid, "signals to the task must reach the run"


def test_the_status_of_the_run_is_that_of_the_task(task: Path) -> None:
    script = started(task, "gpu", "8", STATUS="143")
    script.communicate()
    assert script.returncode == 143


@pytest.mark.parametrize(
    ("words", "number"), [(["gpu", "8"], ""), (["gpu"], "5"), ([], "5"), (["", "8"], "5")]
)
def test_a_task_without_a_shard_measures_nothing(task: Path, words: list[str], number: str) -> None:
    script = started(task, *words, SLURM_ARRAY_TASK_ID=number)
    _, error = script.communicate()
    assert script.returncode == 2
    assert "sbatch --array=1-COUNT slurm_shards.sh SWEEP COUNT" in error
    assert not (task / "called").exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_no_fault() -> None:
    subprocess.run(["shellcheck", SCRIPT], check=True)
