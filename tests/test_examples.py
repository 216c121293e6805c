"""Every example of the documents runs, and a wrong one fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil import Document
from sybil.example import SybilFailure
from sybil.parsers.markdown import CodeBlockParser

from tests import examples
from tests.examples import commands, run_python, run_shell

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(page: Path) -> Document:
    return Document.parse(
        str(page), CodeBlockParser("python", run_python), CodeBlockParser("sh", run_shell)
    )


def run(document: Document) -> int:
    """Evaluate the examples in their order: those of a page share their names."""
    found = list(document.examples())
    for example in found:
        example.evaluate()
    return len(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(page: Path) -> None:
    """One test a page, and not one an example: tests may be spread over processes."""
    blocks = page.read_text().count("```python\n") + page.read_text().count("```sh\n")
    assert run(read(page)) == blocks


def written(tmp_path: Path, language: str, *blocks: str) -> Document:
    file = tmp_path / "page.md"
    file.write_text("\n".join(f"```{language}\n{block}\n```\n" for block in blocks))
    return read(file)


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure anything here."""
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
@pytest.mark.usefixtures("no_runs")
def test_a_wrong_command_fails(tmp_path: Path, command: str, expected: str) -> None:
    with pytest.raises(SybilFailure, match=expected):
        run(written(tmp_path, "sh", f"# the next line is wrong\n{command}  # really"))


def test_a_wrong_python_example_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="two"):
        run(written(tmp_path, "python", "one = 1", "assert one == 2, 'two'"))


def test_a_wrong_example_of_a_file_fails(tmp_path: Path) -> None:
    source = "# variants/wrong_example.py\nfrom variants import no_such_name"
    with pytest.raises(SybilFailure, match="no_such_name"):
        run(written(tmp_path, "python", source))


@pytest.mark.usefixtures("no_runs")
def test_commands_that_install_are_not_run(tmp_path: Path) -> None:
    lines = "python3 -m venv .venv\n.venv/bin/pip install torch\nmake test PYTHON=/path/to/python"
    assert run(written(tmp_path, "sh", lines)) == 1


def test_an_example_is_split_into_its_commands() -> None:
    text = "make bench SET='a=1 b=2'  # measure\n\n# no\npython -m bench run \\\n    --set x=1\n"
    assert list(commands(text)) == ["make bench 'SET=a=1 b=2'", "python -m bench run --set x=1"]
