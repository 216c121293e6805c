"""A process that computes and copies memory without end, beside a measurement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = """
import numpy
matrix, block = numpy.ones((400, 400), numpy.float32), numpy.ones(8 << 20, numpy.uint8)
while True:
    matrix @ matrix
    block.copy()
"""


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """Inside, the process runs if it is wanted."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", PROGRAM])
    try:
        yield
    finally:
        process.kill()
        process.wait()
