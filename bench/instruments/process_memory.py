"""The high-water mark of this process: the most memory that it held during one call, libraries
included. Linux can reset the mark; elsewhere it is not known.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.instruments import c_memory

MARK, RESIDENT = "VmHWM", "VmRSS"
RESET = "5"  # what Linux expects in clear_refs to lower the mark to the memory that is held now
SLACK = 2 << 20  # of thread stacks, tables of libraries, and one huge page


def growth(call: Callable[[], object], *, fill: bool = False) -> int | None:
    """Run `call` once and return the bytes that the process held beyond those it held before.

    Blocks that are allocated and never written hold no memory; with `fill`, every new block is
    written once, so that these count too.

    Returns:
        The bytes, or None where the mark cannot be read or reset; `call` has run then too.
    """
    with c_memory.returned_at_once(fill=fill):
        before = _reset()
        call()
        after = _status(MARK)
    return None if before is None or after is None else max(0, after - before)


def uncertainty() -> int:
    """The bytes by which the mark may be off, beside the memory of a call.

    Linux counts pages on each core by itself and adds them up in batches.
    """
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return SLACK + usable * max(32, 2 * cores) * os.sysconf("SC_PAGE_SIZE")


def _reset() -> int | None:
    """Lower the mark to the memory that is held now, and return it."""
    try:
        Path("/proc/self/clear_refs").write_text(RESET)
    except OSError:
        return None
    mark, resident = _status(MARK), _status(RESIDENT)
    if mark is None or resident is None or mark > resident + uncertainty():
        return None  # some sandboxes take the reset and ignore it
    return mark


def _status(entry: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith(f"{entry}:")]
    return 1024 * int(sizes[0]) if sizes else None
