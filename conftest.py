"""Collects the examples of README.md, CONTRIBUTING.md and docs/ as tests, by Sybil."""

from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

from tests.examples import run_python, run_shell

pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", run_python), CodeBlockParser("sh", run_shell)],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/variants/*.md"],
).pytest()
