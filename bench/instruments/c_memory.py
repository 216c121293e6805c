"""Settings of glibc's malloc under which a process holds no more memory than it has allocated.

By itself, the C library keeps freed memory and uses it again, so the memory of the process depends
on all calls before. Where malloc is another one than glibc's, nothing here has an effect.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Options of mallopt: the free memory at the end of the heap at which it goes back to the system,
# the size of blocks that get memory of their own, and the value with which new blocks are filled.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_PERTURB = -1, -3, -6
FILL = 0x55
RETURNED = 1 << 16  # blocks of this size go back to the system as soon as they are freed
MOST_BLOCKED = 1 << 16
IS_MAPPED = 2  # bit in the word before a block: it has memory of its own


@contextmanager
def returned_at_once(*, fill: bool = False) -> Iterator[None]:
    """Inside, freed blocks go back to the system. With `fill`, new blocks are written once."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, RETURNED)
    libc.mallopt(M_MMAP_THRESHOLD, RETURNED)
    libc.malloc_trim(0)
    blocked = _blocked(libc)
    libc.mallopt(M_PERTURB, FILL if fill else 0)
    try:
        yield
    finally:
        libc.mallopt(M_PERTURB, 0)
        for block in blocked:
            libc.free(block)
        fix_thresholds()


def fix_thresholds() -> None:
    """Let the C library keep freed blocks below a fixed size.

    By itself, glibc raises the size whenever a larger block is freed, up to the values here, so
    the time of a call depends on the calls before it. The environment may state others.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_TRIM_THRESHOLD, int(os.environ.get("MALLOC_TRIM_THRESHOLD_", 64 << 20)))
        libc.mallopt(M_MMAP_THRESHOLD, int(os.environ.get("MALLOC_MMAP_THRESHOLD_", 32 << 20)))


def is_glibc() -> bool:
    """Whether malloc is glibc's, so that the functions here have an effect."""
    return _glibc() is not None


def _blocked(libc: ctypes.CDLL) -> list[int]:
    """Allocate the free places of the heap, so that large blocks get memory of their own.

    Only the header of each is written to, so they hold little memory.
    """
    blocked: list[int] = []
    for size in (RETURNED << 8, RETURNED << 4, RETURNED):
        while len(blocked) < MOST_BLOCKED and (block := libc.malloc(size)):
            if _word_before(block) & IS_MAPPED:
                libc.free(block)
                break
            blocked.append(block)
    return blocked


def _word_before(block: int) -> int:
    """The size and the bits that glibc keeps before a block."""
    return ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value


def _glibc() -> ctypes.CDLL | None:
    """The C library, or None if malloc is not its own: another one may have been loaded before."""
    try:
        libc, process = ctypes.CDLL("libc.so.6"), ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018
        own, used = (ctypes.cast(x.malloc, ctypes.c_void_p).value for x in (libc, process))
    except (AttributeError, OSError):
        return None
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    return libc if own == used else None
