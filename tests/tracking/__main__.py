"""`python -m tests.tracking`: the benchmarks, with the options of pytest and pytest-benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tracking.outcomes import BAD_INPUT

# A round takes at least 2 ms, and all rounds of a case about 0.3 s. Later options replace these.
OPTIONS = ("--benchmark-min-time=0.002", "--benchmark-max-time=0.3")


def main(arguments: list[str]) -> int:
    """Run the benchmarks and return the exit status (`tests.tracking.conftest`)."""
    status = int(pytest.main([str(Path(__file__).parent), *OPTIONS, *arguments]))
    return BAD_INPUT if status == pytest.ExitCode.USAGE_ERROR else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
