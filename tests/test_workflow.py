"""The workflow of GitHub Actions: its commands exist, and its steps end as its comments say.

The steps run here in bash, with a command in place of Python that ends with a given status.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bench.cli.commands import main

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".github" / "workflows" / "benchmarks.yml"
WORKFLOW: dict[Any, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
JOBS: dict[str, Any] = WORKFLOW["jobs"]
STEPS = [(job, step) for job in JOBS for step in JOBS[job]["steps"]]
SCRIPTS = {f"{job}: {step['name']}": step["run"] for job, step in STEPS if "run" in step}


def bench_calls() -> Iterator[str]:
    """The words after `python -m bench` in the steps."""
    for script in SCRIPTS.values():
        for found in re.finditer(r'python"? -m bench ([^|;)\n>]*)', script):
            yield found[1].strip()


def test_the_gates_are_called() -> None:
    assert {call.split()[0] for call in bench_calls()} == {"counts", "compare"}


@pytest.mark.parametrize("call", sorted(set(bench_calls())))
def test_every_command_takes_its_options(call: str) -> None:
    name, *words = shlex.split(call)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    command.make_context(name, words)  # raises click.UsageError for an option that is not there


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {name for script in SCRIPTS.values() for name in re.findall(r"^make (\S+)", script)}
    assert called
    assert called <= targets


@pytest.mark.parametrize("name", SCRIPTS)
def test_expressions_reach_a_script_as_variables_only(name: str) -> None:
    """A branch name inside a script would be run as code."""
    assert "${{" not in SCRIPTS[name]


def test_only_the_job_that_runs_no_code_may_write() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [job for job in JOBS if "permissions" in JOBS[job]] == ["comment"]
    assert not any("run" in step for step in JOBS["comment"]["steps"])
    assert not any("checkout" in step["uses"] for step in JOBS["comment"]["steps"])


def test_every_job_has_a_limit_and_every_action_a_major_version() -> None:
    assert all(JOBS[job]["timeout-minutes"] for job in JOBS)
    used = [step["uses"] for _, step in STEPS if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)


PYTHON = """#!/bin/sh
# In place of Python: the base and the head end with the statuses of the variables.
case "$*" in
  *tests/counts.toml) echo "compared with the file"; exit "$FILE_STATUS" ;;
  *"counts --base"*) echo "compared with the base $5"; exit "$BASE_STATUS" ;;
  *compare*)
    [ "$TIME_STATUS" != 3 ] && echo "| case | verdict |" >summary.md
    exit "$TIME_STATUS" ;;
esac
exit 99
"""


@dataclass(frozen=True)
class Checkout:
    """A repository of two commits with the command in place of Python."""

    folder: Path
    base: str

    def run(self, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a step as a runner does."""
        place = self.folder.parent
        own = {
            "BASE": self.base,
            "HEAD": "HEAD",
            "GITHUB_OUTPUT": str(place / "output"),
            "GITHUB_STEP_SUMMARY": str(place / "summary"),
            "GITHUB_WORKSPACE": str(self.folder),
            "RUNNER_TEMP": str(place),
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", SCRIPTS[name]],
            cwd=self.folder,
            env={**os.environ, **own, **variables},
            capture_output=True,
            text=True,
        )

    def commit(self, path: str, text: str) -> str:
        file = self.folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self.git("add", path)
        self.git("commit", "--quiet", "--message", path)
        return self.git("rev-parse", "HEAD")

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *who, *words], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    empty = Checkout(tmp_path / "checkout", "")
    empty.folder.mkdir()
    empty.git("init", "--quiet")
    base = empty.commit("tests/counts.toml", "before")
    empty.commit("kernel.py", "changed")
    python = empty.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return Checkout(empty.folder, base)


TIME = "time: Measure base and head alternately"
WITH_FILE = "counts: Compare with the committed file"
WITH_BASE = "counts: Compare with the base, counted on this runner"


@pytest.mark.parametrize(
    ("status", "ends", "said"),
    [
        ("0", 0, ""),
        ("1", 1, "::error title=Time gate::A case is slower"),
        ("2", 0, "::warning"),
        ("3", 3, "::error title=Time gate::Bad input"),
        ("143", 143, "::error title=Time gate::The time gate was stopped"),
    ],
)
def test_the_time_gate_fails_for_a_regression_and_warns_without_a_measurement(
    checkout: Checkout, status: str, ends: int, said: str
) -> None:
    done = checkout.run(TIME, TIME_STATUS=status)
    assert done.returncode == ends, done.stderr
    assert done.stdout.startswith(said) if said else done.stdout == ""
    shown = (checkout.folder.parent / "summary").read_text()
    assert shown == (checkout.folder / "summary.md").read_text()
    # A comment is written from this file, so that it never shows the table of an older commit.
    without = "### Time gate: no result for HEAD (exit status 3)\n"
    assert shown == (without if status == "3" else "| case | verdict |\n")


@pytest.mark.parametrize(
    ("status", "ends", "said"),
    [("0", 0, ""), ("1", 1, "::error"), ("2", 0, "::notice"), ("3", 3, "::error")],
)
def test_the_counts_are_compared_with_the_committed_file_first(
    checkout: Checkout, status: str, ends: int, said: str
) -> None:
    done = checkout.run(WITH_FILE, FILE_STATUS=status)
    assert done.returncode == ends, done.stderr
    assert done.stdout.startswith(f"compared with the file\n{said}")
    assert (checkout.folder.parent / "output").read_text() == f"status={status}\n"


@pytest.mark.parametrize(
    ("status", "ends", "said"),
    [
        ("0", 0, ""),
        ("1", 1, "::error title=Counts::Counts differ from the base"),
        ("2", 0, "::warning title=Counts::The base cannot be counted"),
        ("3", 3, "::error title=Counts::The counts could not be compared: bad input"),
        ("143", 143, "::error title=Counts::The command was stopped"),
    ],
)
def test_on_another_machine_the_counts_are_compared_with_the_base(
    checkout: Checkout, status: str, ends: int, said: str
) -> None:
    done = checkout.run(WITH_BASE, BASE_STATUS=status)
    assert done.returncode == ends, done.stderr
    assert done.stdout.startswith(f"compared with the base {checkout.base}\n{said}")
    assert bool(said) == ("::" in done.stdout)


def test_the_first_push_of_a_branch_is_compared_with_the_commit_before(checkout: Checkout) -> None:
    done = checkout.run(WITH_BASE, BASE="0" * 40, BASE_STATUS="1")
    assert done.returncode == 1
    assert f"compared with the base {checkout.git('rev-parse', 'HEAD^')}\n" in done.stdout
