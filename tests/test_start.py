"""The commands start without the packages that they do not need, and describe themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench.cli.commands import main as bench
from bench.cli.deferred import DeferredCommand
from bench.plan.sweep import built_in
from reports.__main__ import main as reports

ROOT = Path(__file__).parents[1]
RUN = ROOT / "results" / "reference" / "amd-epyc-2-threads-long"
# One process runs all commands, as each start takes a tenth of a second.
COMMANDS = """
import sys
from bench.cli.commands import main as bench
from reports.__main__ import main as reports

for group, *words in (
    (bench, "--help"),
    (bench, "compare", sys.argv[1], sys.argv[1]),
    (reports, "--help"),
    (reports, "recommend", "--help"),
):
    group.main(words, standalone_mode=False)
    slow = {"torch", "variants", "pandas", "matplotlib"} & set(sys.modules)
    assert not slow, (words, slow)
"""


def test_help_and_compare_import_neither_torch_nor_pandas() -> None:
    words = [sys.executable, "-c", COMMANDS, str(RUN)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("group", [bench, reports], ids=["bench", "reports"])
def test_the_help_shows_the_whole_first_sentence_of_every_command(group: click.Group) -> None:
    said = CliRunner().invoke(group, ["--help"], terminal_width=200)
    assert said.exit_code == 0
    assert "..." not in said.output.partition("Commands:")[2]
    shown = " ".join(said.output.split())
    for name, command in group.commands.items():
        real = command.load() if isinstance(command, DeferredCommand) else command
        assert real.name == name
        summary = " ".join(str(real.help).split()).partition(". ")[0].rstrip(".")
        assert f" {name} {summary}" in shown


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_help_of_a_sweep_names_the_built_in_ones(command: str) -> None:
    said = CliRunner().invoke(bench, [command, "--help"], terminal_width=200).output
    assert said.endswith(f"Built-in sweeps: {', '.join(built_in())}.\n")
    assert {"cpu", "gpu", "smoke"} < set(built_in())


def test_the_help_does_not_begin_with_the_name_of_the_command() -> None:
    said = CliRunner().invoke(bench, ["--help"], prog_name="python -m bench").output
    usage, _, description = said.partition("\n\n")
    assert usage == "Usage: python -m bench [OPTIONS] COMMAND [ARGS]..."
    assert description.strip().startswith("Measure the time, the memory and the error")


@pytest.mark.parametrize(
    ("group", "words", "suggested"),
    [
        (bench, ["pln"], "'plan'"),
        (bench, ["compair"], "'compare'"),
        (bench, ["run", "--devise", "cpu"], "'--device'"),
        (reports, ["biuld"], "'build'"),
    ],
)
def test_a_mistyped_command_or_option_gets_a_suggestion(
    group: click.Group, words: list[str], suggested: str
) -> None:
    said = CliRunner().invoke(group, words)
    assert said.exit_code == 2
    _, _, suggestion = said.output.partition("Did you mean ")
    assert suggested in suggestion
