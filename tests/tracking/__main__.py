"""`python -m tests.tracking`: the benchmarks, with the options of pytest and pytest-benchmark."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from bench.cli.gate_command import INVALID, NOT_MEASURED

# A round takes at least 2 ms, and all rounds of a case about 0.3 s. Later options replace these.
OPTIONS = ("--benchmark-min-time=0.002", "--benchmark-max-time=0.3")


def main(arguments: list[str]) -> int:
    """Run the benchmarks and return the exit status (`tests.tracking.conftest`)."""
    try:
        status = int(pytest.main([str(Path(__file__).parent), *OPTIONS, *arguments]))
    except Exception:  # Python would end with 1, the status of a regression
        traceback.print_exc()
        return NOT_MEASURED
    return INVALID if status == pytest.ExitCode.USAGE_ERROR else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
