"""Warnings are errors where the versions of other packages are the tested ones.

Any release of any package may warn of something new; that alone is no fault of the code here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.versions import ROOT, differing, installed, tested

DIFFERING = differing(tested((ROOT / "constraints.txt").read_text()), installed())
SHOWN = 5


def pytest_configure(config: pytest.Config) -> None:
    if not DIFFERING:
        # A later line wins: the exceptions of pyproject.toml have to follow.
        for line in ["error", *config.getini("filterwarnings")]:
            config.addinivalue_line("filterwarnings", line)


def pytest_report_header() -> str:
    if not DIFFERING:
        return "versions: those of constraints.txt; warnings are errors"
    more = f" and {len(DIFFERING) - SHOWN} more" if len(DIFFERING) > SHOWN else ""
    return f"versions: {', '.join(DIFFERING[:SHOWN])}{more}; warnings are no errors"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread: two that wait for each other take ages on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
