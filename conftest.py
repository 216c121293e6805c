"""Collects the examples of README.md, CONTRIBUTING.md and docs/ as tests, by Sybil."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import CodeBlockParser

from tests.examples import run_python, run_shell

pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", run_python), CodeBlockParser("sh", run_shell)],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/variants/*.md"],
).pytest()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Examples run in one process: those of a page share their names, and a command that several
    pages show is run once."""
    for item in items:
        if isinstance(item, SybilItem):
            item.add_marker(pytest.mark.xdist_group("examples"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """torch computes on one thread, here and in processes that a test starts: small tensors gain
    nothing from threads, and threads that wait for each other on a busy machine cost minutes."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)
