"""Runs the examples of the documents: Python unchanged, shell commands at a small size.

If the first line of a Python example is a comment with a file name, the example is saved to that
file and run in its own process, so that its registrations affect no other example. The other
examples of a page share their names.

Each `make` target of a shell example is expanded by a dry run. Commands of `bench` and `reports
build` are run with options that make them small, `reports recommend` on the reference runs.
Commands that become equal by this are run once. A sweep is planned with its own axes, which checks
them all, and measured at one point. Commands that install, test, clean or compare counts are not
run, nor those of Ray and Slurm; they are in `NOT_RUN`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from functools import cache
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from sybil import Example
from sybil.evaluators.python import PythonEvaluator

from bench.cli.commands import main as bench
from bench.gate_proof.__main__ import main as gate_proof
from bench.selfcheck import same_code
from reports.__main__ import main as reports
from tests.stored_history import Call, save_commits
from tests.tiny_model import save_model, save_text

ROOT = Path(__file__).parents[1]
NOT_RUN = re.compile(
    r"(?:\S*/)?(?:pip|awk|echo|cp|rm|touch|make:|ray|sbatch)(?: |$)"
    r"|test -z |'?left="
    r"|(?:\S*/)?python3? (?:-W error )?-m "
    r"(?:pip|venv|pytest|pdoc|ruff|mypy|tests\.versions|tests\.tracking|reports docs|bench counts)"
    r"(?: |$)"
)
# The point at which sweeps are measured. Sweeps with an added implementation keep their own axes.
POINT = {
    "variant": "sliding_window window_size=16",
    "implementation": "auto",
    "seq_len": "64",
    "heads": "2",
}
# Options that say where a sweep is measured.
PLACES = ("--out", "--shard", "--executor", "--ray-address", "--cpus-per-case")
# Options of other commands: options that are replaced, and options that are added if missing.
SMALLER: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "train": (
        {"--steps": "2", "--seed": "1"},
        {"--variant": "lsh num_hashes=2", "--task": "recall"},
    ),
    "model": (
        {"--seq-len": "64", "--layers": "0", "--model": "tiny", "--text": "book.txt"},
        {"--variant": "attention_sinks window_size=512"},
    ),
    "capture": ({"--model": "tiny", "--layers": "0", "--tokens": "64"}, {}),
}

_python = PythonEvaluator()


def run_python(example: Example) -> str | None:
    """Run a Python example. Returns the error if the example is a file and fails."""
    named = re.match(r"# (\S+)\.py\n", example.parsed)
    if not named:
        _python(example)
        return None
    file = folder() / f"{named[1]}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(example.parsed)
    module = named[1].replace("/", ".")
    code = f"import runpy, variants; runpy.run_path({str(file)!r}, run_name={module!r})"
    return _failure([sys.executable, "-c", code])


def run_shell(example: Example) -> str | None:
    """Run a shell example. Returns the output of the first command that fails."""
    for command in commands(example.parsed):
        if failure := run_command(command):
            return f"{command}\n{failure}"
    return None


def commands(text: str) -> Iterator[str]:
    """The commands of an example without comments. A line that ends with a backslash continues."""
    for line in text.replace("\\\n", " ").splitlines():
        if command := shlex.join(shlex.split(line, comments=True)):
            yield command


@cache
def run_command(command: str) -> str | None:
    """Run one command, once for all its occurrences. Returns its output if it fails."""
    _two_runs()
    words = shlex.split(command)
    if words[0] == "make":
        return _run_target(words)
    if words[0] == "env":
        words = [word for word in words[1:] if "=" not in word or word.startswith("-")]
        command = shlex.join(words)
    if NOT_RUN.match(command):
        return None
    match words:
        case ["python", "-m", "reports", "build", *_]:
            return _invoke(reports, "build", *("results/A", "results/B")[: len(words) - 4])
        case ["python", "-m", "reports", "recommend", *options]:
            paths = (str(ROOT / word) if "/reference/" in word else word for word in options)
            return _invoke(reports, "recommend", *paths)
        case ["python", "-m", "reports", "history", *options]:
            save_commits(folder() / "results" / "track", 2, lambda _: [Call()])
            return _invoke(reports, "history", *options)
        case ["python", "-m", "bench", "selfcheck", *options]:  # takes minutes
            return _invoke(bench, "selfcheck", *options, "--help")
        case ["python", "-m", "bench", ("compare" | "bisect") as name, *options] if (
            "--base" in options or name == "bisect"
        ):  # measures for minutes; the revisions are those of a reader
            return _invoke(bench, name, *options, "--help")
        case ["python", "-m", "bench.gate_proof", *options]:
            return _invoke(gate_proof, *options, "--help")
        case ["python", "-m", "bench", "merge", "shards/*", *options]:
            return _invoke(bench, "merge", *_shards(), *options)
        case ["python", "-m", "bench", "run", *options] if "--resume" not in options:
            return _run_sweep(options)
        case ["python", "-m", "bench", name, *options]:
            if name not in ("capture", "export"):
                options = _without(options, "--out")
            return _invoke(bench, name, *_smaller(options, *SMALLER.get(name, ({}, {}))))
    return "no test knows how to run this"


@cache
def folder() -> Path:
    """The working directory of commands; it holds a tiny model and a text."""
    made = Path(_temporary().name)
    save_model(made / "tiny")
    save_text(made / "book.txt")
    return made


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="examples-")


@cache
def _two_runs() -> None:
    """Finished runs in results/A and results/B."""
    failure = _invoke(bench, "run", *_point(POINT), "--out", "results/A")
    assert failure is None, failure
    shutil.copytree(folder() / "results/A", folder() / "results/B")


@cache
def _shards() -> tuple[str, ...]:
    """Finished runs of two shards."""
    places = tuple(f"shards/{number}" for number in (1, 2))
    for number, place in enumerate(places, start=1):
        words = ("--shard", f"{number}/2", "--out", place)
        failure = _invoke(bench, "run", *_point(POINT), *words)
        assert failure is None, failure
    return places


def _run_target(words: Sequence[str]) -> str | None:
    """Run the commands of a make target."""
    given = [] if any(word.startswith("PYTHON=") for word in words) else ["PYTHON=python"]
    # In a test that `make` started, the messages of make would name a level of recursion.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        [*words, *given, "--dry-run", "--no-print-directory"],
        cwd=ROOT,
        env=own,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return done.stderr
    python = next((word[7:] for word in words if word.startswith("PYTHON=")), "python")
    for command in commands(done.stdout):
        command = command.replace(f"{python} -m ", "python -m ", 1)
        if failure := run_command(command):
            return f"{command}\n{failure}"
    return None


def _run_sweep(options: Sequence[str]) -> str | None:
    """Plan the sweep with its own axes, then measure one point of it."""
    plan = ["plan", *_without(options, *PLACES)]
    imports = [options[at + 1] for at, word in enumerate(options) if word == "--import"]
    if not imports:
        return _invoke(bench, *plan) or _invoke(bench, "run", *_point(POINT), "--out", "results/A")
    # In its own process, so that the added implementations affect no other example. The peers have
    # their own tests.
    words = plan
    if imports != ["bench.peers"]:
        given = dict(options[at + 1].split("=", 1) for at, w in enumerate(options) if w == "--set")
        words = ["run", "--import", *imports, *_point(given | {"seq_len": POINT["seq_len"]})]
    return _failure([sys.executable, "-m", "bench", *words])


def _point(axes: Mapping[str, str]) -> list[str]:
    return [*(f"--set={axis}={values}" for axis, values in axes.items()), "--seconds", "0.01"]


def _smaller(
    options: Sequence[str], replaced: Mapping[str, str], defaults: Mapping[str, str]
) -> list[str]:
    missing = {name: value for name, value in defaults.items() if name not in options}
    pairs = [*missing.items(), *replaced.items()]
    return [*_without(options, *replaced), *(word for pair in pairs for word in pair)]


def _without(options: Sequence[str], *names: str) -> list[str]:
    """The options without the named ones, which have one value each."""
    dropped = {at + step for at, word in enumerate(options) if word in names for step in (0, 1)}
    return [word for at, word in enumerate(options) if at not in dropped]


@cache
def _invoke(command: click.Group, *words: str) -> str | None:
    """Run a command of this project in this process. Returns its output if it fails."""
    with chdir(folder()), pytest.MonkeyPatch.context() as changed:
        changed.setattr(same_code, "SHORT_SECONDS", 0.01)
        result = CliRunner().invoke(command, words)
    return None if result.exit_code == 0 else f"{result.output}\n{result.exception!r}"


def _failure(words: Sequence[str]) -> str | None:
    """Run a process. Returns its output if it fails."""
    paths = os.pathsep.join([str(ROOT), str(folder())])
    done = subprocess.run(
        list(words),
        cwd=folder(),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    return None if done.returncode == 0 else done.stdout + done.stderr
