"""Functions that a worker process runs in tests, and that do what a kernel must not do."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]


def exit_from_c(status: int) -> None:
    ctypes.CDLL(None).exit(status)


def overflow_the_stack() -> None:
    """Recurse without end through C code, so that the stack of the thread overflows."""
    sys.setrecursionlimit(1 << 30)

    class Deep:
        def __repr__(self) -> str:
            return repr([self])

    repr(Deep())


def close_descriptors(*descriptors: int) -> None:
    """Close these descriptors, or all without arguments, and return."""
    if descriptors:
        for one in descriptors:
            os.close(one)
    else:
        os.closerange(0, 1 << 10)


def close_if_open(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


def close_and_hang() -> None:
    os.closerange(0, 1 << 10)
    time.sleep(600)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_interpreter() -> None:
    """Hang without giving other threads of Python a chance to run."""
    ctypes.PyDLL(None).sleep(600)


def print_without_end() -> None:
    while True:
        os.write(1, b"0123456789abcde\n" * 4096)


def leave_processes() -> list[int]:
    """Start a child, a child in a session of its own, a grandchild whose parent has ended, and a
    forked child that ignores signals. Returns their process ids."""
    child = subprocess.Popen(SLEEPER)
    apart = subprocess.Popen(SLEEPER, start_new_session=True)
    code = (
        "import subprocess, sys; "
        f"print(subprocess.Popen({SLEEPER}, start_new_session=True, stdout=subprocess.DEVNULL).pid)"
    )
    orphan = int(subprocess.check_output([sys.executable, "-c", code]))
    forked = os.fork()
    if forked == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(600)
    return [child.pid, apart.pid, orphan, forked]


def leave_processes_and(then: str) -> None:
    print("left", *leave_processes(), flush=True)
    if then == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)


def leave_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,)).start()


class Wordless(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Abroad(Exception):
    """An exception that can be pickled, but not read again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Unreadable:
    """A result that can be pickled, but whose reading ends the process that reads it."""

    def __reduce__(self) -> Any:
        return sys.exit, (0,)


KINDS = {
    "wordless": lambda: Wordless(),
    "abroad": lambda: Abroad("one", "two"),
    "local": lambda: type("Local", (Exception,), {})("of no module"),
    "with a lock": lambda: LookupError(threading.Lock()),
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "GeneratorExit": lambda: GeneratorExit(),
    "BaseException": lambda: BaseException("base"),
    "TimeoutError": lambda: TimeoutError("own"),
    "fine": lambda: LookupError("there is none"),
}


def raise_error(kind: str) -> None:
    raise KINDS[kind]()


def unreadable() -> Unreadable:
    return Unreadable()


def unpicklable() -> Any:
    return threading.Lock()


def large(size: int) -> bytes:
    return bytes(size)


def start_fails(text: str) -> None:
    print("some words before")
    raise MemoryError(text)


def start_ends(status: int) -> None:
    os._exit(status)


def nothing() -> None:
    """The start of a worker in tests."""
