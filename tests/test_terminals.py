"""Every command works in a terminal of any encoding, and without standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUN = ROOT / "results" / "reference" / "amd-epyc-2-threads-long"
# One process runs several commands, as each start takes seconds. Python opens files with the lowest
# free number, so the last line fails if standard output was not opened again.
COMMANDS = """
import sys
from pathlib import Path
from bench.cli.commands import main as bench
from reports.__main__ import main as reports

for command, *words in (
    (bench, "list"),
    (bench, "list", "lsh"),
    (bench, "plan", sys.argv[2]),
    (bench, "compare", sys.argv[1], sys.argv[1]),
    (reports, "build", sys.argv[1], "--out", "report"),
):
    command.main(words, standalone_mode=False)
Path("done").write_text(str(open("other", "w").fileno()))
"""
# The names have letters that only some of the encodings have.
SWEEP = 'variant = ["full"]\nseq_len = [16]\n'


def commands(folder: Path, *, closed: str = "", **environment: str) -> tuple[int, bytes]:
    """The exit status and the error output of the commands."""
    sweep = folder / "名前 × [x].toml"
    sweep.write_text(SWEEP)
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    shell = f'exec "$@" {closed}'
    words = ["sh", "-c", shell, "sh", sys.executable, "-c", COMMANDS, str(RUN), str(sweep)]
    done = subprocess.run(words, cwd=folder, env=given, capture_output=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "shift-jis"])
def test_commands_print_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    assert commands(tmp_path, PYTHONIOENCODING=encoding) == (0, b"")
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_commands_work_without_standard_streams(tmp_path: Path, closed: str) -> None:
    assert commands(tmp_path, closed=closed) == (0, b"")
    assert int((tmp_path / "done").read_text()) > 2


def test_a_run_and_a_training_work_in_an_ascii_terminal_without_output(tmp_path: Path) -> None:
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    python = f'"{sys.executable}" -m bench'
    axes = "--set seq_len=16 --set variant=lsh --set settings=default --seconds 0.01"
    for words, rows in (
        (f"run {axes} --out run", "run/results.csv"),
        ("train --variant full --task copy --steps 1 --out train", "train/training.csv"),
    ):
        done = subprocess.run(
            f"{python} {words} >&-", shell=True, cwd=tmp_path, env=given, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert len((tmp_path / rows).read_text().splitlines()) == 2
