"""That an example of a document fails if it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil import Document
from sybil.document import Document as MarkdownDocument
from sybil.example import SybilFailure
from sybil.parsers.markdown import CodeBlockParser

from tests import examples
from tests.examples import commands, run_python, run_shell


def page(tmp_path: Path, language: str, *blocks: str) -> Document:
    file = tmp_path / "page.md"
    file.write_text("\n".join(f"```{language}\n{block}\n```\n" for block in blocks))
    parsers = [CodeBlockParser("python", run_python), CodeBlockParser("sh", run_shell)]
    return MarkdownDocument.parse(str(file), *parsers)


def run(document: Document) -> int:
    found = list(document.examples())
    for example in found:
        example.evaluate()
    return len(found)


@pytest.fixture(autouse=True)
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured here."""
    monkeypatch.setattr(examples, "_two_runs", lambda: None)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("make no-such-target", "No rule to make target"),
        ("make bench SET=no_axis=1", "unknown axis 'no_axis'"),
        ('python -m bench run --set "variant=lsh rounds=2" --set seq_len=64', "rounds"),
        ("python -m bench list --no-option", "No such option"),
        ("python -m bench no-command", "No such command"),
        ("curl example.org", "no test knows how to run this"),
    ],
)
def test_a_wrong_command_fails(tmp_path: Path, command: str, expected: str) -> None:
    with pytest.raises(SybilFailure, match=expected):
        run(page(tmp_path, "sh", f"# the next line is wrong\n{command}  # really"))


def test_a_wrong_python_example_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="two"):
        run(page(tmp_path, "python", "one = 1", "assert one == 2, 'two'"))


def test_a_wrong_example_of_a_file_fails(tmp_path: Path) -> None:
    source = "# variants/wrong_example.py\nfrom variants import no_such_name"
    with pytest.raises(SybilFailure, match="no_such_name"):
        run(page(tmp_path, "python", source))


def test_commands_that_install_are_not_run(tmp_path: Path) -> None:
    lines = "python3 -m venv .venv\n.venv/bin/pip install torch\nmake test PYTHON=/path/to/python"
    assert run(page(tmp_path, "sh", lines)) == 1


def test_an_example_is_a_list_of_commands() -> None:
    text = "make bench SET='a=1 b=2'  # measure\n\n# no\npython -m bench run \\\n    --set x=1\n"
    assert list(commands(text)) == ["make bench 'SET=a=1 b=2'", "python -m bench run --set x=1"]
